"""Accounts that open nothing until a second person says that they may."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from appliance.admin.base import ReadOnlyAdmin
from appliance.web.purpose import actor_of
from retrieval import holds
from retrieval.errors import AccessDenied, SecondPersonNeeded
from retrieval.models import Hold


@admin.register(Hold)
class HoldAdmin(ReadOnlyAdmin):
    list_display = ["held_at", "user", "reason", "held_by", "lifted_by", "lifted_at"]
    list_select_related = ["user", "held_by", "lifted_by"]
    list_per_page = 50
    fields = ["user", "reason", "held_by", "held_at", "lifted_by", "lifted_at"]
    change_form_outer_before_template = "admin/lift_hold.html"

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return actor_of(request).has_perm(holds.RIGHT)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.is_authenticated and self.has_view_permission(request)

    def get_urls(self) -> list[URLPattern]:
        protected: Any = self.admin_site.admin_view(require_POST(self.lift_view))
        return [
            path("<int:hold_id>/lift/", protected, name="retrieval_hold_lift"),
            *super().get_urls(),
        ]

    def lift_view(self, request: HttpRequest, hold_id: int) -> HttpResponseRedirect:
        try:
            holds.lift(hold_id, actor=actor_of(request))
            messages.success(request, "Lifted: the account opens again what it may.")
        except (SecondPersonNeeded, AccessDenied):
            messages.error(request, "Not possible: lifted already, or for somebody else to lift.")
        return redirect("admin:retrieval_hold_changelist")
