"""The web image holds what the web side imports, and nothing of the models."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = {"appliance", "retrieval", "workers"}


def test_the_web_sides_requirements_name_every_package_it_imports() -> None:
    wanted = _third_party_imports(ROOT / "appliance") | _third_party_imports(ROOT / "retrieval")
    pinned = _pinned("web.txt")
    distributions = packages_distributions()
    missing = {
        name
        for name in wanted
        if not pinned & {_normal(d) for d in distributions.get(name, [name])}
    }
    assert missing == set()


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
