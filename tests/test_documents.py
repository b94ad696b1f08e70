"""What the documents name is there, and what an operator may set is named in them."""

import re
from argparse import ArgumentParser, _SubParsersAction
from pathlib import Path

import yaml
from django.core.management import get_commands, load_command_class

from tests.conftest import LONGEST

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
OURS = r"(?:appliance|retrieval|workers|tests|docker|docs|requirements)/"
HISTORY = {"CHANGELOG.md", "decisions.md", "benchmarks.md"}
"""They tell what was, too."""


def read(*parts: str) -> str:
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def settings_read() -> set[str]:
    """The variables of the environment that our code asks for by name."""
    asked = [read("workers", "decode", "sandbox.py")]
    asked += [read("appliance", name) for name in ("env.py", "settings.py")]
    return set(re.findall(r'"(CLOISTER_[A-Z_]+)"', "".join(asked)))


def test_every_file_that_a_document_names_is_there() -> None:
    missing = {
        (document.name, path)
        for document in DOCUMENTS
        if document.name not in HISTORY
        for path in re.findall(rf"`({OURS}[\w/.-]*)`", document.read_text(encoding="utf-8"))
        if not (ROOT / path).exists()
    }
    assert missing == set()


def test_every_command_that_the_readme_lists_is_there() -> None:
    named = set(re.findall(r"^\| `(\w+)", read("README.md").partition("## Everyday")[2], re.M))
    assert named <= get_commands().keys()
    assert {"import", "search", "audit", "finetune"} <= named


def options(parser: ArgumentParser) -> set[str]:
    """Those of the command and of what it divides into."""
    found: set[str] = set()
    for action in parser._actions:
        found.update(action.option_strings)
        if isinstance(action, _SubParsersAction):
            found.update(*(options(part) for part in action.choices.values()))
    return found


def test_every_option_of_a_command_that_a_document_names_is_there() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    shown = re.findall(r"(?:manage\.py |^\| `)(\w+)([^`\n#]*)", text, re.M)
    commands = get_commands()
    named = {
        (name, option)
        for name, rest in shown
        if name in commands
        for option in re.findall(r"--[a-z][\w-]*", rest)
    }
    there = {
        name: options(load_command_class(commands[name], name).create_parser("manage.py", name))
        for name, _ in named
    }
    assert {(name, option) for name, option in named if option not in there[name]} == set()
    assert ("search", "--image") in named


def test_every_setting_is_told_to_who_runs_it() -> None:
    told = read("docs", "deployment.md") + read("docs", "audit.md") + read("README.md")
    assert {name for name in settings_read() if name not in told} == set()


def test_every_setting_reaches_a_container() -> None:
    services = yaml.safe_load(read("docker", "compose.yml"))["services"].values()
    handed = {name for service in services for name in service.get("environment", {})}
    handed |= set(re.findall(r"CLOISTER_\w+(?==)", read("docker", "web.Dockerfile")))
    assert settings_read() <= handed


def test_every_file_that_starts_first_is_there() -> None:
    assert [name for name in LONGEST if not (ROOT / "tests" / name).exists()] == []
