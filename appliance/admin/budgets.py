"""Privacy budgets: what was spent, what is left, and the raises that two people decide.

No form here writes a row: each button is one call of `retrieval.budget`, in a transaction of its
own, and the database asks for the second person again.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from django import forms
from django.contrib import admin, messages
from django.db import DataError, IntegrityError
from django.db.models import Model
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.utils import timezone
from django.views.decorators.http import require_POST

from appliance.admin.base import RecordedReadingAdmin
from appliance.web.purpose import actor_of
from retrieval import budget
from retrieval.errors import AccessDenied, SecondPersonNeeded
from retrieval.models import Budget, BudgetProposal, Collection, Kind, Outcome, Reservation
from retrieval.models.budget import MAX_EPSILON

DECISIONS: Final[dict[str, Callable[..., None]]] = {
    "approve": budget.approve_raise,
    "decline": budget.decline_raise,
}

CHART_WIDTH, CHART_HEIGHT, CHART_MARGIN = 640, 200, 40


class BudgetForm(forms.Form):
    """ε and δ of one collection."""

    collection = forms.ModelChoiceField(Collection.objects.all())
    max_epsilon = forms.FloatField(min_value=0, max_value=MAX_EPSILON, label="Maximum ε")
    delta = forms.FloatField(min_value=1e-300, max_value=0.1, label="δ")


@dataclass(frozen=True)
class Tick:
    """A number or a day beside an axis, and where, in the SVG's own units."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Spent ε over time as a line of steps, in the SVG's own units; the budget's maximum above.

    What lies between the line and the maximum is left.
    """

    line: str
    area: str
    limit_y: float
    rows: list[Tick]  # ε, beside the left axis
    begins: datetime
    ends: datetime
    spent: float
    left: float


def spent_over_time(rows: list[Reservation]) -> list[tuple[datetime, float]]:
    """The total ε after each entry of the ledger, oldest first."""
    points = [(row.reserved_at, row.total_epsilon) for row in rows]
    points += [
        (row.closed_at, row.closed_total_epsilon)
        for row in rows
        if row.closed_at is not None and row.closed_total_epsilon is not None
    ]
    return sorted(points)


def draw(points: list[tuple[datetime, float]], max_epsilon: float) -> Chart | None:
    if not points:
        return None
    begins, ends = points[0][0], timezone.now()
    seconds = max((ends - begins).total_seconds(), 1.0)
    highest = max(max_epsilon, *(epsilon for _, epsilon in points), 1e-9)
    top = 1.15 * highest

    def x(at: datetime) -> float:
        return round(CHART_WIDTH * (at - begins).total_seconds() / seconds, 1)

    def y(epsilon: float) -> float:
        return round(CHART_HEIGHT * (1 - epsilon / top), 1)

    corners, level = [(0.0, y(0))], y(0)
    for at, epsilon in points:
        corners += [(x(at), level), (x(at), y(epsilon))]
        level = y(epsilon)
    corners.append((float(CHART_WIDTH), level))
    line = " ".join(f"{a},{b}" for a, b in corners)
    area = f"{line} {CHART_WIDTH},{CHART_HEIGHT} 0,{CHART_HEIGHT}"
    spent = points[-1][1]
    return Chart(
        line,
        area,
        y(max_epsilon),
        [Tick(y(epsilon), f"{epsilon:.3g}") for epsilon in ticks(highest)],
        begins,
        ends,
        spent,
        max(max_epsilon - spent, 0.0),
    )


def ticks(highest: float) -> list[float]:
    """Round numbers from 0 up to `highest`, about four of them."""
    step = 10 ** math.floor(math.log10(highest / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if step * factor >= highest / 4)
    return [number * step for number in range(math.floor(highest / step + 1e-9) + 1)]


@admin.register(Budget)
class BudgetAdmin(RecordedReadingAdmin):
    """One line per collection; its page has the chart, the ledger and the raises."""

    reading = Kind.BUDGET_READ
    recorded_as = "collections"

    list_display = ["collection", "max_epsilon", "spent", "left", "delta", "changed_at"]
    list_select_related = ["collection"]
    list_display_links = ["collection"]
    list_before_template = "admin/budget_form.html"
    fields = ["collection", "max_epsilon", "delta", "spent", "left", "changed_at"]
    readonly_fields = ["spent", "left"]
    change_form_outer_before_template = "admin/budget_form.html"
    change_form_outer_after_template = "admin/budget_ledger.html"

    @admin.display(description="spent ε")
    def spent(self, row: Budget) -> str:
        return f"{spent_epsilon(row):.4g}"

    @admin.display(description="left ε")
    def left(self, row: Budget) -> str:
        return f"{max(row.max_epsilon - spent_epsilon(row), 0):.4g}"

    def get_urls(self) -> list[URLPattern]:
        def posted(pattern: str, view: Any, name: str) -> URLPattern:
            protected: Any = self.admin_site.admin_view(require_POST(view))
            url: URLPattern = path(pattern, protected, name=f"retrieval_budget_{name}")
            return url

        return [
            posted("set/", self.set_view, "set"),
            posted("proposal/<int:proposal_id>/decide/", self.decide_view, "decide"),
            *super().get_urls(),
        ]

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # The officer's one right is enough, though no row is changed by a form of Django's.
        actor = actor_of(request)
        return actor.has_perm("retrieval.view_budget") or actor.has_perm(budget.RIGHT)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.is_authenticated and self.has_view_permission(request)

    def recorded_id(self, row: Budget) -> str:
        return str(row.collection_id)

    def beside_list(self, request: HttpRequest) -> dict[str, Any]:
        return {"budget_form": _form(request)}

    def beside_row(self, request: HttpRequest, row: Budget) -> dict[str, Any]:
        return _ledger_of(request, row)

    def set_view(self, request: HttpRequest) -> HttpResponseRedirect:
        """Set or lower at once; what is more than before becomes a proposal."""
        form, actor = BudgetForm(request.POST), actor_of(request)
        if not form.is_valid():
            messages.error(request, f"A budget is a collection, ε up to {MAX_EPSILON} and δ.")
            return redirect("admin:retrieval_budget_changelist")
        try:
            try:
                budget.set_budget(**form.cleaned_data, actor=actor)
                messages.success(request, "The budget holds from now on.")
            except SecondPersonNeeded:
                budget.propose_raise(**form.cleaned_data, actor=actor)
                messages.warning(request, "Proposed: it holds once somebody else approves.")
        except SecondPersonNeeded:
            messages.error(request, "A raise of that budget waits to be decided.")
        except AccessDenied:
            messages.error(request, "You may not decide about budgets.")
        except (IntegrityError, DataError):
            messages.error(request, "The database refuses these numbers.")
        return redirect("admin:retrieval_budget_changelist")

    def decide_view(self, request: HttpRequest, proposal_id: int) -> HttpResponseRedirect:
        decide = DECISIONS.get(request.POST.get("decision", ""))
        if decide is None:
            messages.error(request, "Choose how to decide.")
            return redirect("admin:retrieval_budget_changelist")
        try:
            decide(proposal_id, actor=actor_of(request))
            messages.success(request, "Decided.")
        except SecondPersonNeeded:
            messages.error(
                request,
                "Somebody else has to approve: who held the right when it was proposed, and"
                " neither made nor changed the other's account.",
            )
        except AccessDenied:
            messages.error(request, "Not possible: decided, outdated, or not yours to decide.")
        return redirect("admin:retrieval_budget_changelist")


def spent_epsilon(row: Budget) -> float:
    points = spent_over_time(list(Reservation.objects.filter(collection=row.collection_id)))
    return points[-1][1] if points else 0.0


def _form(request: HttpRequest, row: Budget | None = None) -> BudgetForm | None:
    if not actor_of(request).has_perm(budget.RIGHT):
        return None
    initial: dict[str, Any] = {}
    if row is not None:
        initial = {
            "collection": row.collection_id,
            "max_epsilon": row.max_epsilon,
            "delta": row.delta,
        }
    return BudgetForm(initial=initial)


def _ledger_of(request: HttpRequest, row: Budget) -> dict[str, Any]:
    rows = list(
        Reservation.objects.filter(collection=row.collection_id).select_related("subject_group")
    )
    actor = actor_of(request)
    proposals = BudgetProposal.objects.filter(collection=row.collection_id).select_related(
        "proposed_by", "decided_by"
    )
    return {
        "budget_form": _form(request, row),
        "chart": draw(spent_over_time(rows), row.max_epsilon),
        "chart_width": CHART_WIDTH,
        "chart_height": CHART_HEIGHT,
        "chart_margin": CHART_MARGIN,
        "counted_at_another_delta": bool(rows) and rows[0].budget_delta != row.delta,
        "reservations": rows,
        "proposals": list(proposals),
        "actor": actor,
        "may_decide": actor.has_perm(budget.RIGHT),
        "may_read_log": actor.has_perm("retrieval.view_auditevent"),
        "open": Outcome.OPEN,
    }
