"""Names of groups: a DN (RFC 4514) in one spelling, whoever wrote it; any other name as it is."""

import re
from typing import Final

PART: Final = re.compile(r"(?:\\.|[^,\\])+", re.DOTALL)
ESCAPED: Final = re.compile(r"((?:\\[0-9A-Fa-f]{2})+)|\\(.)", re.DOTALL)
SPECIAL: Final = re.compile(r"[,\\]")
BEHIND_BACKSLASH: Final = r"\\\g<0>"


def parts(dn: str) -> list[tuple[str, str]]:
    """Attribute, in small letters, and value of each part of a DN, the entry's own first."""
    found = (part.partition("=") for part in PART.findall(dn))
    return [(attribute.strip().lower(), _plain(value.strip())) for attribute, _, value in found]


def canonical(name: str) -> str:
    """What two spellings of one group have in common. Directories do not tell capitals apart."""
    if "=" not in name:
        return name
    return ",".join(
        f"{attribute}={SPECIAL.sub(BEHIND_BACKSLASH, value.casefold())}"
        for attribute, value in parts(name)
    )


def name_within(base: str, dn: str, attribute: str) -> str | None:
    """The group's plain name where it lies right below `base`; None where it lies deeper.

    By its DN, which is one of its kind: anybody's group further down could carry a name as well,
    and any group a second one.
    """
    (own, *above), wanted = parts(dn), parts(base)
    lies_there = [(a, v.casefold()) for a, v in above] == [(a, v.casefold()) for a, v in wanted]
    return own[1] if lies_there and own[0] == attribute.lower() and "=" not in own[1] else None


def _plain(value: str) -> str:
    def unescaped(found: re.Match[str]) -> str:
        pairs, sign = found.groups()
        if pairs is None:
            return str(sign)
        return bytes.fromhex(pairs.replace("\\", "")).decode(errors="replace")

    return ESCAPED.sub(unescaped, value)
