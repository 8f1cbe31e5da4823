# Pipetrail's image: a Python, a virtual environment, and nothing that builds or downloads.
#
#   buildah bud --tag registry.example.com/pipetrail:0.1.0 .        (or: docker build)
#
# The base image is an argument, so that a mirror, a pinned digest or a base of your own can stand in. It needs Python
# 3.11 with the module venv as `python3`, glibc and libstdc++. Pin it in production: BASE=docker.io/library/python@sha256:….
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# Each tracker's package is an extra; all of them are in the default image.
ARG EXTRAS="mlflow neptune tensorboard figures"
ARG UV="uv>=0.9,<1"
# The machine's own certificates, as a company's proxy may need them.
ENV UV_PROJECT_ENVIRONMENT=/opt/pipetrail UV_LINK_MODE=copy UV_NO_CACHE=1 UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1
RUN python3 -m venv /build && /build/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "${UV}"
WORKDIR /src
# What the lock file names comes first: it changes seldom, and a cached layer holds it.
COPY pyproject.toml uv.lock ./
RUN /build/bin/uv sync --quiet --locked --python "$(command -v python3)" --no-default-groups --no-install-project \
        $(printf ' --extra %s' ${EXTRAS})
COPY README.md LICENSE ./
COPY operator operator
# Compiled here: the root file system is read-only where it runs. Tests of packages are not needed there.
RUN /build/bin/uv sync --quiet --locked --python "$(command -v python3)" --no-default-groups --no-editable \
        $(printf ' --extra %s' ${EXTRAS}) \
    && find /opt/pipetrail -type d \( -name tests -o -name test \) -path '*/site-packages/*' -prune -exec rm -rf {} + \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/pipetrail/lib

FROM ${BASE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="pipetrail" \
      org.opencontainers.image.description="The flight recorder for pipelines on Kubernetes" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/pipetrail /opt/pipetrail
# An arena for each thread is memory that nobody gives back. A writable /tmp is all that it needs of a file system, and
# USER stands in for the entry in /etc/passwd that a uid of a pod may not have.
ENV PATH=/opt/pipetrail/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MALLOC_ARENA_MAX=2 HOME=/tmp USER=pipetrail MPLCONFIGDIR=/tmp/matplotlib
USER 65532:65532
WORKDIR /
ENTRYPOINT ["pipetrail"]
CMD ["--help"]
