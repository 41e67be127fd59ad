# kar's own environment: the pipeline with torch, and nothing of Airflow. `python -m kar …` is what it runs.
# Build it first: docker/airflow.Dockerfile takes the scheduler's interpreter from it.
# torch is CUDA's from the package index; for CPU only: TORCH=2.13.0+cpu, and PIP_EXTRA_INDEX_URL the address of PyTorch's CPU builds.
FROM python:3.11.14-slim-bookworm AS build
ARG TORCH=2.13.0
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt/kar/app
RUN python -m venv /opt/kar/venv && /opt/kar/venv/bin/python -m pip install --no-cache-dir "torch==${TORCH}"
# what is installed depends on these four files alone, so an edit of kar's code does not install torch and the rest anew
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN mkdir kar && touch kar/__init__.py \
    && /opt/kar/venv/bin/python -m pip install --no-cache-dir --constraint requirements.lock --editable '.[pipeline,local,browse,s3,lineage]'
COPY kar kar
COPY warehouse warehouse
COPY prompts prompts
COPY settings settings
COPY examples examples
COPY docker/kar.sh docker/bucket.py docker/smoke_world.py docker/smoke.toml docker/
RUN /opt/kar/venv/bin/python -m compileall -q kar

FROM python:3.11.14-slim-bookworm AS kar
RUN groupadd --gid 50000 kar \
    && useradd --uid 50000 --gid 50000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin kar \
    && install -d -o kar -g kar /var/kar /models
COPY --from=build /opt/kar /opt/kar
ENV PATH=/opt/kar/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    KAR_HOME=/var/kar \
    DO_NOT_TRACK=1
# prompts/ is looked for in the working directory
WORKDIR /opt/kar/app
USER 50000:50000
CMD ["python", "-m", "kar", "--help"]
