"""Each image holds what its side imports; the web image nothing of the models."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {"appliance", "retrieval", "workers"}
MEASURED_BESIDE = {"faiss"}
"""`benchmark search` and `index` import it where it is: on the machine of who works on this."""


@pytest.mark.parametrize(
    ("name", "sides"),
    [("web", ("appliance", "retrieval")), ("worker", ("appliance", "retrieval", "workers"))],
)
def test_an_images_requirements_name_every_package_that_it_imports(
    name: str, sides: tuple[str, ...]
) -> None:
    wanted = set().union(*(_third_party_imports(ROOT / side) for side in sides)) - MEASURED_BESIDE
    pinned = _pinned(f"{name}.txt")
    distributions = packages_distributions()
    missing = {
        name
        for name in wanted
        if not pinned & {_normal(d) for d in distributions.get(name, [name])}
    }
    assert missing == set()


def test_what_a_dependency_would_bring_and_may_not_is_in_no_list() -> None:
    """The Dockerfiles install the lists as they are: a GPL ffmpeg and a second OpenCV stay out."""
    left_out = {"imageio-ffmpeg", "opencv-python"}
    assert all(_pinned(f"{name}.txt").isdisjoint(left_out) for name in ("web", "worker", "dev"))


def test_the_web_sides_requirements_hold_no_model_code() -> None:
    model_code = {"torch", "torchvision", "onnxruntime", "timm", "transformers", "pillow"}
    assert _pinned("web.txt").isdisjoint(model_code | {"open-clip-torch", "opacus", "pydicom"})


def test_every_pin_of_the_images_has_a_hash() -> None:
    for name in ("web.txt", "worker.txt"):
        lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
        pins = [n for n, line in enumerate(lines) if "==" in line]
        assert pins
        assert all("--hash=sha256:" in lines[n + 1] for n in pins)


def _third_party_imports(folder: Path) -> set[str]:
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - OURS - set(sys.stdlib_module_names)


def _pinned(name: str) -> set[str]:
    lines = (ROOT / "requirements" / name).read_text(encoding="utf-8").splitlines()
    return {_normal(line.partition("==")[0].partition("[")[0]) for line in lines if "==" in line}


def _normal(distribution: str) -> str:
    return distribution.strip().lower().replace("_", "-").replace(".", "-")
