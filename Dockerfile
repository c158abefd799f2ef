# The image of every verb: `docker build --tag leadstream .`, and `docker run leadstream --help`.
# It runs as a user without rights, and writes to /tmp and (compiled code) /var/cache/leadstream.
# It holds what deploy/requirements.txt names, each file by its hash.
# Pin the base by digest if builds must repeat.
ARG PYTHON=3.12-slim-bookworm

FROM python:${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY deploy/requirements.txt deploy/requirements-build.txt /build/deploy/
RUN python -m venv /opt/leadstream \
    && /opt/leadstream/bin/pip install --require-hashes --only-binary :all: \
        --requirement /build/deploy/requirements.txt \
    && pip install --require-hashes --only-binary :all: \
        --requirement /build/deploy/requirements-build.txt
COPY . /build/
# Without an index: what the lock lacks is an error here, and not a download.
RUN pip wheel --no-index --no-deps --no-build-isolation --wheel-dir /build/dist /build \
    && /opt/leadstream/bin/pip install --no-index --no-deps /build/dist/*.whl \
    && /opt/leadstream/bin/pip check

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="Leadstream" \
      org.opencontainers.image.description="Calibrated lead scores from Kafka, exactly once." \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin leadstream \
    && install --directory --owner leadstream /var/cache/leadstream /models /keys /trust /history
COPY --from=build /opt/leadstream /opt/leadstream
ENV PATH=/opt/leadstream/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/var/cache/leadstream \
    LEADSTREAM_HTTP_HOST=0.0.0.0 \
    LEADSTREAM_LOG_FORMAT=json
USER 10001:10001
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 \
    CMD ["python", "-c", \
        "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/healthz', timeout=3)"]
ENTRYPOINT ["leadstream"]
CMD ["run"]
