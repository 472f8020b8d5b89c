# syntax=docker/dockerfile:1
ARG PYTHON=3.13
# A tag moves. Whoever wants the same base again names its digest: --build-arg BASE=python:3.13-slim@sha256:...
ARG BASE=python:${PYTHON}-slim

FROM ${BASE} AS builder
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements/ requirements/
# No pip in what is shipped; --python lets the builder's pip install into the other environment.
RUN python -m venv --without-pip /opt/gateway \
 && pip --python /opt/gateway/bin/python install --require-hashes --only-binary :all: -r requirements/runtime.lock
# The build backend comes from the developers' lock, hashes and all; without isolation nothing else is fetched.
RUN awk '/^[a-z]/ { keep = $1 ~ /^(hatchling|packaging|pathspec|pluggy|tomlkit|trove-classifiers)==/ } keep' \
      requirements/dev.lock > build.lock \
 && pip install --require-hashes --only-binary :all: -r build.lock
COPY pyproject.toml README.md LICENSE ./
COPY protocol/ protocol/
COPY listeners/ listeners/
COPY gateway/ gateway/
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/gateway/bin/python install --no-deps /wheels/*.whl \
 && /opt/gateway/bin/python -m compileall -q /opt/gateway/lib

FROM ${BASE}
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
COPY --from=builder /opt/gateway /opt/gateway
# A number, so that Kubernetes' runAsNonRoot can check it without a passwd file.
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
# /healthz: the process lives. Whether it should get clients is /readyz, a question for the load balancer.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8081/healthz', timeout=2)"]
ENTRYPOINT ["inventory-gateway"]
CMD ["serve", "--ops-listen", "0.0.0.0:8081"]
