"""What both images must be, whoever edits them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = {
    name: (ROOT / "docker" / f"{name}.Dockerfile").read_text(encoding="utf-8")
    for name in ("web", "worker")
}

both_images = pytest.mark.parametrize("name", DOCKERFILES)


@both_images
def test_its_base_is_a_build_argument(name: str) -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILES[name], re.MULTILINE)
    assert set(bases) == {"${BASE_IMAGE}"}
    assert re.search(r"^ARG BASE_IMAGE=\S+:\d\S*$", DOCKERFILES[name], re.MULTILINE)


@both_images
def test_it_installs_its_own_requirements_only_and_by_hash(name: str) -> None:
    text = DOCKERFILES[name]
    assert set(re.findall(r"requirements/(\S+)", text)) == {f"{name}.txt"}
    (install,) = re.findall(r"pip install .*", text)
    assert f"--no-deps --require-hashes --only-binary :all: -r /tmp/{name}.txt" in install


@both_images
def test_nothing_of_the_builders_package_index_is_in_it(name: str) -> None:
    assert not re.search(r"https?://|index-url|find-links|trusted-host", DOCKERFILES[name])
    assert "--mount=type=secret,id=pip,target=/etc/pip.conf" in DOCKERFILES[name]


@both_images
def test_its_last_user_is_a_number_and_not_root(name: str) -> None:
    final_stage = DOCKERFILES[name].rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (\S+)", final_stage, re.MULTILINE) == ["10001:10001"]


def test_the_web_image_holds_no_model_code() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILES["web"], re.MULTILINE)
    workers = [line for line in copied if "workers" in line]
    assert workers == ["workers/__init__.py workers/apps.py workers/"]


def test_the_builder_is_sent_named_parts_only() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert not any(word in rule for rule in rules for word in ("var", "secrets", ".git", ".env"))


def test_no_service_and_no_image_is_the_latest() -> None:
    for path in (ROOT / "docker").rglob("*"):
        if path.is_file() and "secrets" not in path.parts:
            assert ":latest" not in path.read_text(encoding="utf-8"), path
