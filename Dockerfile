# mmkd-run in a container, on x86-64 and ARM64: sensors in, decisions out, the page and its health on one port.
#
#   docker build -t mmkd-edge .
#   docker buildx build --platform linux/amd64,linux/arm64 -t mmkd-edge .
#
# docs/devices.md#containers has the lines that run it, with a read-only root. A Jetson's GPU needs Dockerfile.jetson instead.

ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
# The native engine is compiled here; the image itself has no compiler. Debian removes superseded versions of packages.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/mmkd
ENV PATH=/opt/mmkd/bin:${PATH}
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY mmkd_edge ./mmkd_edge
COPY export/mmkd_export ./export/mmkd_export
COPY benchmarks/mmkd_bench ./benchmarks/mmkd_bench
COPY models/mmkd_models ./models/mmkd_models
COPY documents/mmkd_documents ./documents/mmkd_documents
COPY app/mmkd_app ./app/mmkd_app
COPY station/mmkd_station ./station/mmkd_station
# What is installed is this folder.
# hadolint ignore=DL3013
RUN pip install --no-cache-dir '.[ort,litert,live,monitor]'
WORKDIR /
RUN python -c "from mmkd_edge import EdgePredictor, example_bundle; EdgePredictor.open(example_bundle(), backend='native').selftest()"

FROM ${PYTHON_IMAGE}
COPY --from=build /opt/mmkd /opt/mmkd

# What a station reads and writes is in two folders: its stations and bundles, and what it keeps.
RUN useradd --uid 10001 --create-home mmkd \
    && install -d -o mmkd -g mmkd /config /state
USER 10001
WORKDIR /state
VOLUME /state

# Nothing is written outside /state, so that the root can be read-only. The page is on the container's own loopback
# address: with --network host that is the machine's.
ENV PATH=/opt/mmkd/bin:${PATH} \
    XDG_CACHE_HOME=/state/cache \
    MMKD_MONITOR=127.0.0.1:8090 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# 200 while no call hangs and every engine answers. A token is sent where MMKD_MONITOR_TOKEN_FILE names a file with one,
# as an address beyond this machine asks for it; proxies are for others.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; t = os.environ.get('MMKD_MONITOR_TOKEN_FILE'); h = {'Authorization': 'Bearer ' + open(t).read().strip()} if t else {}; u.build_opener(u.ProxyHandler({})).open(u.Request('http://127.0.0.1:' + os.environ['MMKD_MONITOR'].rpartition(':')[2] + '/healthz', headers=h), timeout=8)"]

# SIGTERM ends it after what came is answered.
CMD ["mmkd-run", "/config/stations.toml", "--monitor", "127.0.0.1:8090"]
