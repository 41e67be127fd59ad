# Airflow with the DAGs. Two targets, because only the scheduler runs tasks:
#   airflow    for the API server, the DAG processor, the triggerer and the init job: no torch, no kar
#   scheduler  kar's image with Airflow's virtual environment beside kar's; LocalExecutor's tasks call KAR_PYTHON
ARG KAR_IMAGE=kar:0.1.0

FROM python:3.11.14-slim-bookworm AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY docker/airflow.lock /tmp/airflow.lock
RUN python -m venv /opt/airflow/venv && /opt/airflow/venv/bin/python -m pip install --no-cache-dir --requirement /tmp/airflow.lock
COPY docker/entrypoint.sh docker/init.sh docker/probe.py docker/refuse_defaults.py /opt/airflow/docker/
COPY .env.example /opt/airflow/docker/env.example
COPY dags /opt/airflow/dags
RUN /opt/airflow/venv/bin/python -m compileall -q /opt/airflow/dags

FROM python:3.11.14-slim-bookworm AS airflow
# the same user as in kar's image: both write into the volumes of logs and data
RUN groupadd --gid 50000 kar \
    && useradd --uid 50000 --gid 50000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kar \
    && install -d -o kar -g kar /opt/airflow/home /var/log/airflow /var/kar
COPY --from=build /opt/airflow/venv /opt/airflow/venv
COPY --from=build /opt/airflow/docker /opt/airflow/docker
COPY --from=build /opt/airflow/dags /opt/airflow/dags
ENV PATH=/opt/airflow/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    AIRFLOW_HOME=/opt/airflow/home \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
WORKDIR /opt/airflow
USER 50000:50000
ENTRYPOINT ["/opt/airflow/docker/entrypoint.sh"]
CMD ["airflow", "version"]

# hadolint ignore=DL3006
FROM ${KAR_IMAGE} AS scheduler
COPY --from=airflow /opt/airflow/venv /opt/airflow/venv
COPY --from=airflow /opt/airflow/docker /opt/airflow/docker
COPY --from=airflow /opt/airflow/dags /opt/airflow/dags
# beside dags/, where the downstream example looks for its job
COPY examples /opt/airflow/examples
COPY --from=airflow --chown=50000:50000 /opt/airflow/home /opt/airflow/home
COPY --from=airflow --chown=50000:50000 /var/log/airflow /var/log/airflow
ENV PATH=/opt/airflow/venv/bin:$PATH \
    KAR_PYTHON=/opt/kar/venv/bin/python \
    AIRFLOW_HOME=/opt/airflow/home \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags \
    AIRFLOW__CORE__LOAD_EXAMPLES=False
# tasks inherit the working directory, and kar looks for prompts/ there
WORKDIR /opt/kar/app
USER 50000:50000
ENTRYPOINT ["/opt/airflow/docker/entrypoint.sh"]
CMD ["airflow", "scheduler"]
