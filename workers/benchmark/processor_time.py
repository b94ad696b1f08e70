"""Processor time by program, of this process and all that it has started. See proc(5)."""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# A worker by its name without its number, a command by its own; servers by their programs.
_PROGRAMS = re.compile(r"-n (\w+?)(?:-\d+)?@|manage\.py (\w+)|\b(postgres|valkey|gunicorn)\b")


@dataclass(frozen=True)
class _Process:
    parent: int
    command: str
    seconds: float


def seconds_by_program() -> dict[str, float]:
    """Seconds so far. What belongs to no program of the appliance counts as its starter's.

    Ended children count as their parents': a decoder's as its worker's. What has no living parent
    here any more is lost.
    """
    processes = _all()
    by_program = defaultdict[str, float](float)
    for pid, process in processes.items():
        at, program = pid, ""
        while at in processes and at != os.getpid():
            if not program and (named := _PROGRAMS.search(processes[at].command)):
                program = next(name for name in named.groups() if name)
            at = processes[at].parent
        if at == os.getpid():
            by_program[program or "this"] += process.seconds
    return dict(by_program)


def since(before: Mapping[str, float]) -> dict[str, float]:
    """Seconds by program since `before` was counted."""
    return {program: s - before.get(program, 0) for program, s in seconds_by_program().items()}


def _all() -> dict[int, _Process]:
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The program's name comes in brackets and may hold anything, brackets too.
            stat = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        ticks = sum(map(int, stat[11:15]))  # own and ended children's, user and system
        found[int(entry.name)] = _Process(int(stat[1]), command, ticks / _TICKS_PER_S)
    return found
