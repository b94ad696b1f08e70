"""Three objectives, one protocol: what a step may learn of the private rows is one bounded sum.

Notation: a correction is a matrix Δ (rank, dimensions); image i is embedded as start_i + z_i Δ U,
U (dimensions, t) the public basis, or as start_i + z_i Δ where there is none. All gradients here
are sums of outer products z_i ⊗ b_i, so the norm of a unit's or group's gradient follows from two
small Gram matrices and no gradient is ever held per unit ("ghost norms": Goodfellow 2015, arXiv
1510.01799; Li et al. 2022, arXiv 2110.05679).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from retrieval.errors import ObjectiveRefused
from workers.finetune import sampler
from workers.finetune.heads import Rows

Drawn = NDArray[np.int64]

ROUNDING = 1e-6
"""Parts are clipped so much below their clip that no rounding of float64, and not that of the grid
on which noise is added (`sampler.noisy`), lets one unit move the sum by more than is said."""


@dataclass(frozen=True)
class Clipping:
    """How long the clipped parts of a sum may be, in L2: a unit's own, and its group's. 0: none."""

    unit: float
    group: float = 0.0

    @property
    def sensitivity(self) -> float:
        """How far adding or removing one unit can move the sum: its own part comes or goes, and
        its group's part may turn into any other that is as long."""
        return self.unit + 2 * self.group


class Objective(Protocol):
    """A bounded sum over units. Drawing them, noise and moving are the trainer's."""

    @property
    def name(self) -> str: ...

    @property
    def clip(self) -> float:
        """No clipped part of the sum is longer than this."""

    @property
    def clipping(self) -> Clipping: ...

    @property
    def size(self) -> int:
        """Numbers in the sum."""

    def clipped_sum(self, weights: torch.Tensor, rows: Rows, drawn: Drawn) -> torch.Tensor:
        """(size,) float64: the clipped sum over the units `drawn`; zeros if there are none."""

    def correction(self, weights: torch.Tensor) -> torch.Tensor:
        """(rank, t): what these weights (size,) add to the public head."""

    def alignment(self, trace: torch.Tensor, rows: Rows) -> torch.Tensor:
        """(N,): how far `trace` (size,) lies along each row's own descent before training."""

    def lengths(self, rows: Rows) -> torch.Tensor:
        """(N,): of each row's own gradient before training; public rows' help to choose `clip`."""


@dataclass(frozen=True)
class LeastSquares:
    """Private least squares: Σ zᵀ[r, w·z] once, with noise, then a ridge solution.

    r is what the public head leaves over. Each unit's statistics are clipped as one matrix.
    With `moment_weight` 0 the second moment of the inputs is the public one, which costs
    nothing; else the private one is released in the same sum.
    """

    rank: int
    dimensions: int
    clip: float
    moment_weight: float = 0.0
    basis: torch.Tensor | None = None
    name: str = "least_squares"

    @property
    def clipping(self) -> Clipping:
        """One unit is one term of the sum, clipped."""
        return Clipping(self.clip)

    @property
    def width(self) -> int:
        return self.dimensions + (self.rank if self.moment_weight else 0)

    @property
    def size(self) -> int:
        return self.rank * self.width

    def clipped_sum(self, weights: torch.Tensor, rows: Rows, drawn: Drawn) -> torch.Tensor:
        chosen = rows.of_units(drawn)
        left, right = self._factors(rows, chosen)
        return clipped_outer_sum(left, right, rows.unit_of[chosen], self.clip).flatten()

    def correction(self, weights: torch.Tensor) -> torch.Tensor:
        return whole(self.basis, weights.view(self.rank, -1)[:, : self.dimensions])

    def alignment(self, trace: torch.Tensor, rows: Rows) -> torch.Tensor:
        return outer_alignment(trace, *self._factors(rows, np.arange(len(rows.unit_of))))

    def lengths(self, rows: Rows) -> torch.Tensor:
        return outer_lengths(*self._factors(rows, np.arange(len(rows.unit_of))))

    def _factors(self, rows: Rows, chosen: Drawn) -> tuple[torch.Tensor, torch.Tensor]:
        left = rows.inputs[chosen]
        residual = within(self.basis, rows.targets[chosen] - rows.start[chosen])
        if self.moment_weight:
            residual = torch.cat([residual, self.moment_weight * left], 1)
        return left, residual


@dataclass(frozen=True)
class PerExample:
    """Each image against its own text and frozen public ones: the loss separates per image.

    loss_i = -s·v_i·y_i + log(exp(s·v_i·y_i) + Σ_a exp(s·v_i·a)), anchors a public and frozen,
    s the inverse temperature, also public. A unit's gradient is the sum over its images, clipped.
    """

    rank: int
    dimensions: int
    clip: float
    anchors: torch.Tensor  # (A, t)
    temperature: float
    basis: torch.Tensor | None = None
    name: str = "per_example"

    @property
    def clipping(self) -> Clipping:
        """One unit is one term of the sum, clipped."""
        return Clipping(self.clip)

    @property
    def size(self) -> int:
        return self.rank * self.dimensions

    def clipped_sum(self, weights: torch.Tensor, rows: Rows, drawn: Drawn) -> torch.Tensor:
        chosen = rows.of_units(drawn)
        left = rows.inputs[chosen]
        right = self.descent(weights, rows, chosen)
        return clipped_outer_sum(left, right, rows.unit_of[chosen], self.clip).flatten()

    def correction(self, weights: torch.Tensor) -> torch.Tensor:
        return whole(self.basis, weights.view(self.rank, -1))

    def alignment(self, trace: torch.Tensor, rows: Rows) -> torch.Tensor:
        return outer_alignment(trace, rows.inputs, self._first(rows))

    def lengths(self, rows: Rows) -> torch.Tensor:
        return outer_lengths(rows.inputs, self._first(rows))

    def _first(self, rows: Rows) -> torch.Tensor:
        return self.descent(torch.zeros(self.size), rows, np.arange(len(rows.unit_of)))

    def descent(self, weights: torch.Tensor, rows: Rows, chosen: Drawn) -> torch.Tensor:
        """(n, dimensions): minus each loss's gradient by its own output."""
        output = outputs(weights, rows, chosen, self.basis)
        loss = per_example_loss(output, rows.targets[chosen], self.anchors, self.temperature)
        return -within(self.basis, torch.autograd.grad(loss.sum(), output)[0])


def per_example_loss(
    output: torch.Tensor, targets: torch.Tensor, anchors: torch.Tensor, temperature: float
) -> torch.Tensor:
    """output, targets: (n, t). Returns (n,): row i depends on row i and the anchors only."""
    embedded = functional.normalize(output, dim=-1)
    own = (embedded * targets).sum(1, keepdim=True) / temperature
    others = embedded @ anchors.T / temperature
    return torch.cat([own, others], 1).logsumexp(1) - own[:, 0]


@dataclass(frozen=True)
class Grouped:
    """A contrastive loss inside disjoint groups of units (the idea of DP-GCL, arXiv 2604.26467).

    Each step draws units by Poisson sampling, gives every drawn unit a group by an independent
    uniform label, and takes in-group InfoNCE (frozen public anchors are further negatives). What a
    unit's gradient would be by itself, against the anchors, is clipped to C per unit. What the
    others of its group change in it is summed over the group and clipped to C·`mixing` as one
    vector. With `mixing` None nothing is taken apart: the group's whole gradient is clipped to C.

    Why the ε is right, for adding or removing one unit u. Fix the coins and labels of all other
    units, and u's label, which is independent of whether u is drawn. Without u the sum is some
    m. With u it is m if u is not drawn (probability 1 - q). Else u's own part is added, of length
    at most C, and only the group of u's label differs: its part h becomes some h', both clipped to
    length C·mixing. So the sum moves by at most C + |h'| + |h| ≤ C (1 + 2 mixing), or by 2C where
    the gradient is clipped whole. The step is therefore the Poisson-sampled Gaussian mechanism with
    that sensitivity; averaging over what was fixed keeps the bound (divergences are jointly
    convex, and u's neighbours' choices have one law in both worlds). Groups cut from a shuffled
    list would not do: taking u out shifts others into other groups.

    `groups` is the number of labels, fixed before the run; 1, clipped whole, is whole-batch
    clipping.
    """

    rank: int
    dimensions: int
    clip: float
    anchors: torch.Tensor  # (A, t)
    temperature: float
    groups: int
    basis: torch.Tensor | None = None
    mixing: float | None = 1 / 32
    name: str = "grouped_contrastive"

    @property
    def clipping(self) -> Clipping:
        if self.mixing is None:
            return Clipping(0.0, self.clip)
        return Clipping(self.clip, self.mixing * self.clip)

    @property
    def size(self) -> int:
        return self.rank * self.dimensions

    def clipped_sum(self, weights: torch.Tensor, rows: Rows, drawn: Drawn) -> torch.Tensor:
        label = np.zeros(rows.units, np.int64)
        label[drawn] = sampler.labels(len(drawn), self.groups)
        chosen = rows.of_units(drawn)
        unit = rows.unit_of[chosen]
        group, left = label[unit], rows.inputs[chosen]
        together = self._descent(weights, rows, chosen, group)
        if self.mixing is None:
            return clipped_outer_sum(left, together, group, self.clipping.group).flatten()
        alone = self._alone().descent(weights, rows, chosen)
        own = clipped_outer_sum(left, alone, unit, self.clipping.unit)
        added = clipped_outer_sum(left, together - alone, group, self.clipping.group)
        return (own + added).flatten()

    def correction(self, weights: torch.Tensor) -> torch.Tensor:
        return whole(self.basis, weights.view(self.rank, -1))

    def alignment(self, trace: torch.Tensor, rows: Rows) -> torch.Tensor:
        return self._alone().alignment(trace, rows)

    def lengths(self, rows: Rows) -> torch.Tensor:
        return self._alone().lengths(rows)

    def _alone(self) -> PerExample:
        return PerExample(
            self.rank, self.dimensions, self.clip, self.anchors, self.temperature, self.basis
        )

    def _descent(
        self, weights: torch.Tensor, rows: Rows, chosen: Drawn, group: Drawn
    ) -> torch.Tensor:
        """(n, dimensions): minus the gradient of the row's group's loss by the row's output."""
        output = outputs(weights, rows, chosen, self.basis)
        unit = torch.from_numpy(rows.unit_of[chosen])
        loss = torch.zeros(())
        for block in blocks(group):
            loss = loss + grouped_loss(
                output,
                rows.targets[chosen],
                unit,
                block,
                anchors=self.anchors,
                temperature=self.temperature,
            )
        if not len(chosen):
            return torch.zeros(0, self.dimensions)
        return -within(self.basis, torch.autograd.grad(loss, output)[0])


def grouped_loss(
    output: torch.Tensor,
    targets: torch.Tensor,
    unit: torch.Tensor,
    block: torch.Tensor,
    *,
    anchors: torch.Tensor,
    temperature: float,
) -> torch.Tensor:
    """In-group InfoNCE, summed. block: (groups, members) row numbers.

    Images choose among the texts of their group and the anchors; texts choose among the images
    of their group. Other images of one's own subject are no negatives.
    """
    images = functional.normalize(output, dim=-1)[block]
    texts, units = targets[block], unit[block]
    score = images @ texts.mT / temperature  # (groups, members, members)
    same = torch.eye(block.shape[1], dtype=torch.bool)
    score = score.masked_fill((units[:, :, None] == units[:, None, :]) & ~same, -torch.inf)
    others = images @ anchors.T / temperature
    to_text = torch.cat([score, others], 2).logsumexp(2)
    to_image = score.logsumexp(1)
    return (to_text + to_image - 2 * score.diagonal(dim1=1, dim2=2)).sum()


def in_batch_contrastive(*_: object) -> Objective:
    """Refused: an in-batch loss through per-example gradients.

    Every image's loss holds all other images of the batch, so what hooks call the gradient of
    one example changes with everybody else's data; clipping it bounds no one's share.
    """
    raise ObjectiveRefused(
        "an in-batch contrastive loss does not separate per example: its epsilon would mean "
        "nothing. Use the grouped objective, or frozen anchors instead of the batch"
    )


def within(basis: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
    """(n, t) → (n, dimensions): the rows' coordinates in the basis."""
    return rows if basis is None else rows @ basis.T


def whole(basis: torch.Tensor | None, delta: torch.Tensor) -> torch.Tensor:
    """(rank, dimensions) → (rank, t): what is added to the public head."""
    return delta if basis is None else delta @ basis


def outputs(
    weights: torch.Tensor, rows: Rows, chosen: Drawn, basis: torch.Tensor | None
) -> torch.Tensor:
    """(n, t): outputs of the chosen rows under `weights` (size,), ready for autograd."""
    delta = whole(basis, weights.view(rows.inputs.shape[1], -1))
    return (rows.start[chosen] + rows.inputs[chosen] @ delta).requires_grad_()


def outer_lengths(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n,): |left_i ⊗ right_i|."""
    found: torch.Tensor = left.norm(dim=1) * right.norm(dim=1)
    return found


def outer_alignment(trace: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(n,): trace's component along left_i ⊗ right_i."""
    released = trace.view(left.shape[1], -1).double()
    along = ((left.double() @ released) * right.double()).sum(1)
    found: torch.Tensor = along / outer_lengths(left, right).clamp_min(1e-12)
    return found


def clipped_outer_sum(
    left: torch.Tensor, right: torch.Tensor, piece: Drawn, clip: float
) -> torch.Tensor:
    """Σ over pieces of clip(Σ over rows i of the piece of left_i ⊗ right_i).

    left: (n, a); right: (n, b); piece: (n,). Returns (a, b) float64. Each piece's matrix is scaled
    to Frobenius norm `clip` if it is longer. All in float64: a float32 sum of thousands of parts
    rounds by about a part's length, differently when one is gone (Casacuberta et al. 2022, arXiv
    2207.10635).
    """
    left, right = left.double(), right.double()
    scale = torch.ones(len(left), dtype=torch.float64)
    for block in blocks(piece):
        length = _lengths(left[block], right[block]).clamp_min(1e-12)
        factor = ((1 - ROUNDING) * clip / length).clamp(max=1)
        scale[block] = factor[:, None].expand_as(block)
    return (left * scale[:, None]).T @ right


def _lengths(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(pieces,): |Σ l_i ⊗ r_i|, rows i along the second dimension.

    Of few rows by their Gram matrices, Σ_ij (l_i·l_j)(r_i·r_j); of many by the sum itself.
    """
    rows = left.shape[1]
    if rows * rows > left.shape[2] * right.shape[2]:
        square = (left.mT @ right).square().sum((1, 2))
    else:
        square = ((left @ left.mT) * (right @ right.mT)).sum((1, 2)).clamp_min(0)
    return torch.sqrt(square)


def blocks(piece: Drawn) -> list[torch.Tensor]:
    """Rows by piece, pieces of equal size together: (pieces, size) row numbers each."""
    if not len(piece):
        return []
    order = np.argsort(piece, kind="stable")
    _, first, count = np.unique(piece[order], return_index=True, return_counts=True)
    found = []
    for size in np.unique(count):
        starts = first[count == size]
        found.append(torch.from_numpy(order[starts[:, None] + np.arange(size)]))
    return found
