"""docs/security.md names tests that there are, and leaves out no requirement."""

import re
from pathlib import Path

from appliance.web import middleware

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")

# The requirements of levels 1 and 2 of OWASP ASVS 5.0.0: how many each section has.
SECTIONS = {
    **{"5.1": 1, "5.2": 3, "5.3": 2, "5.4": 3},
    **{"6.1": 3, "6.2": 12, "6.3": 4, "6.4": 4, "6.5": 5, "6.6": 3, "6.8": 4},
    **{"7.1": 3, "7.2": 4, "7.3": 2, "7.4": 5, "7.5": 2, "7.6": 2},
    **{"8.1": 2, "8.2": 3, "8.3": 1, "8.4": 1},
    **{"13.1": 1, "13.2": 5, "13.3": 2, "13.4": 5},
    **{"14.1": 2, "14.2": 4, "14.3": 3},
    **{"16.1": 1, "16.2": 5, "16.3": 4, "16.4": 3, "16.5": 3},
}


def test_every_test_that_is_named_is_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", DOCUMENT))
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M)
    }

    assert len(named) > 60
    assert named - there == set()


def test_every_requirement_has_a_line() -> None:
    listed = re.findall(r"^\| (\d+\.\d+\.\d+) \| (.+) \|$", DOCUMENT, re.M)
    wanted = [f"{section}.{n}" for section, count in SECTIONS.items() for n in range(1, count + 1)]

    assert [number for number, _ in listed] == wanted
    assert all(text.strip() for _, text in listed)


def test_what_is_not_on_the_log_is_named_here_as_well() -> None:
    assert all(f"`{route}`" in DOCUMENT for route in middleware.UNAUDITED)
