import json
import subprocess
import sys

import pytest

MODEL_CODE = ["torch", "torchvision", "open_clip", "timm", "transformers", "onnxruntime", "opacus"]
PROGRAM = f"""
import json
import sys

def loaded():
    return [name for name in {MODEL_CODE} if name in sys.modules]

import appliance.wsgi
from django.core.management import get_commands, load_command_class
from django.urls import get_resolver
get_resolver().url_patterns
for name, app in get_commands().items():
    if app == "appliance":
        load_command_class(app, name)
web = loaded()
import workers.app
import workers.tasks
print(json.dumps([web, loaded()]))
"""


@pytest.fixture(scope="module")
def loaded(services: object) -> tuple[list[str], list[str]]:
    """In a fresh process: what the web process has loaded with every URL resolved and every
    command known, and what a worker has when it is about to take its first task."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    web, worker = json.loads(done.stdout)
    return web, worker


def test_the_web_side_boots_without_model_code(loaded: tuple[list[str], list[str]]) -> None:
    assert loaded[0] == []


def test_a_worker_boots_without_what_encodes(loaded: tuple[list[str], list[str]]) -> None:
    assert loaded[1] == ["onnxruntime"]  # it looks for faces
