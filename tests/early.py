"""Loaded by pytest before Django's settings are read: no test touches a real appliance."""

import os
import tempfile
from pathlib import Path

var = Path(tempfile.mkdtemp(prefix="cloister-tests-"))
os.environ["CLOISTER_VAR"] = str(var)
for _name in ("DATABASE_URL", "BROKER_URL", "CLOISTER_DATABASE_ROLE", "CLOISTER_KEY_FILE"):
    os.environ.pop(_name, None)
# Beside another process of the suite, threads that wait for one another cost more than they bring
# (workers/encode/device.py). Read when numpy and torch are first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
