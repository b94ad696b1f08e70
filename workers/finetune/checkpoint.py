"""A run's state on disk: sealed, and never behind what was spent.

The file says how many steps were *claimed*, and is written before they are taken. A run that dies
resumes from its last state with the claimed steps counted as spent, whether their releases were
used or not; so what is left is never more than what was paid for. The noise is drawn afresh.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import numpy as np
import safetensors.torch
import torch

from retrieval import keys
from retrieval.errors import RunVoid, StorageCorrupt
from workers.finetune.attack import Canaries
from workers.finetune.heads import Rows
from workers.finetune.train import State

STATE = ("weights", "velocity", "averaged", "trace")
CANARIES = ("inputs", "start", "targets")


@dataclass(frozen=True)
class Checkpoint:
    """`claimed` counts every step that may have touched the data; `plan` is what the run is."""

    state: State
    canaries: Canaries
    claimed: int
    plan: str  # digest of data, objective, mechanism and recipe


def save(folder: Path, run: UUID, checkpoint: Checkpoint) -> None:
    """Replace the run's checkpoint, durably, before this returns."""
    numbers = torch.tensor([checkpoint.state.done, checkpoint.claimed], dtype=torch.int64)
    tensors = {name: getattr(checkpoint.state, name).clone() for name in STATE}
    tensors |= {name: getattr(checkpoint.canaries.rows, name).clone() for name in CANARIES}
    tensors["included"] = torch.from_numpy(checkpoint.canaries.included)
    content = safetensors.torch.save({**tensors, "numbers": numbers})
    path, draft = _path(folder, run), folder / f"{run.hex}.{secrets.token_hex(4)}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(draft, "xb", opener=_private) as file:
        file.write(keys.seal_checkpoint(content, context=_context(run, checkpoint.plan)))
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def load(folder: Path, run: UUID, plan: str) -> Checkpoint:
    """The run's last state. Raises RunVoid where it is missing, altered or of another plan.

    Such a run cannot prove what it spent: its whole reservation counts as spent.
    """
    try:
        content = keys.unseal_checkpoint(
            _path(folder, run).read_bytes(), context=_context(run, plan)
        )
        tensors = safetensors.torch.load(content)
        done, claimed = tensors.pop("numbers").tolist()
        state = State(**{name: tensors[name] for name in STATE}, done=done)
        included = tensors["included"].numpy()
        own = np.arange(len(included))
        rows = Rows(**{name: tensors[name] for name in CANARIES}, unit_of=own, units=len(own))
        return Checkpoint(state, Canaries(rows, included), claimed, plan)
    except (OSError, StorageCorrupt, safetensors.SafetensorError, KeyError, TypeError) as error:
        raise RunVoid(f"run {run} has no state that proves what it spent") from error


def remove(folder: Path, run: UUID) -> None:
    """Once the run is settled nothing of its inner state stays."""
    _path(folder, run).unlink(missing_ok=True)


def _path(folder: Path, run: UUID) -> Path:
    return folder / f"{run.hex}.training"


def _context(run: UUID, plan: str) -> bytes:
    return run.bytes + plan.encode()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
