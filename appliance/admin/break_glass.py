"""Who broke the glass and why: what waits for a second person comes first, and stays."""

from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from appliance.admin.base import RecordedReadingAdmin
from appliance.web.purpose import actor_of
from retrieval import break_glass, holds
from retrieval.errors import AccessDenied, SecondPersonNeeded
from retrieval.models import BreakGlass, Kind, User, Verdict


@admin.register(BreakGlass)
class BreakGlassAdmin(RecordedReadingAdmin):
    reading = Kind.GLASS_READ
    recorded_as = "break_glass"
    list_display = ["opened_at", "user", "collection", "originals", "open_until", "state"]
    list_select_related = ["user", "collection"]
    list_per_page = 50
    fields = ["id", "user", "collection", "originals", "reason", "opened_at", "open_until"]
    fields += ["closed_at", "state", "reviewed_by", "reviewed_at"]
    readonly_fields = ["reason", "state"]
    change_form_outer_before_template = "admin/review_glass.html"

    @admin.display(description="review")
    def state(self, broken: BreakGlass) -> str:
        return broken.get_verdict_display() or "waits for a second person"

    @admin.display(description="reason")
    def reason(self, broken: BreakGlass) -> str:
        return break_glass.reason_of(broken)

    def get_urls(self) -> list[URLPattern]:
        protected: Any = self.admin_site.admin_view(require_POST(self.review_view))
        url = path("<uuid:broken_id>/review/", protected, name="retrieval_breakglass_review")
        return [url, *super().get_urls()]

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return actor_of(request).has_perm(break_glass.RIGHT)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.is_authenticated and self.has_view_permission(request)

    def beside_row(self, request: HttpRequest, row: BreakGlass) -> dict[str, Any]:
        may_judge = not row.verdict and row.user_id != request.user.pk
        return {"verdicts": Verdict.choices if may_judge else []}

    def review_view(self, request: HttpRequest, broken_id: UUID) -> HttpResponseRedirect:
        try:
            verdict = Verdict(request.POST.get("verdict", ""))
            break_glass.review(broken_id, verdict, actor=actor_of(request))
            messages.success(request, "Reviewed.")
        except ValueError:
            messages.error(request, "Choose whether it was justified.")
        except SecondPersonNeeded:
            messages.error(request, "Somebody else has to review what you opened.")
        except AccessDenied:
            messages.error(request, "Not possible: reviewed already, or not yours to review.")
        return redirect("admin:retrieval_breakglass_changelist")


def badge(request: HttpRequest) -> list[str] | None:
    """On every page of the administration, for who may review: what waits."""
    user = request.user
    if not isinstance(user, User):
        return None
    waiting = {
        "Break-glass to review": break_glass.count_unreviewed(user),
        "Accounts held": holds.count_waiting(user),
    }
    told = ", ".join(f"{what}: {count}" for what, count in waiting.items() if count)
    return [told, "danger"] if told else None
