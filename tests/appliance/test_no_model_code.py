import subprocess
import sys

import pytest

MODEL_CODE = ["torch", "torchvision", "open_clip", "timm", "transformers", "onnxruntime", "opacus"]


@pytest.mark.usefixtures("services")
def test_the_web_side_boots_without_model_code() -> None:
    """In a fresh process: everything the web process imports, and every URL resolved."""
    program = f"""
import sys
import appliance.wsgi
from django.core.management import get_commands, load_command_class
from django.urls import get_resolver
get_resolver().url_patterns
for name, app in get_commands().items():
    if app == "appliance":
        load_command_class(app, name)
print([name for name in {MODEL_CODE} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )

    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
