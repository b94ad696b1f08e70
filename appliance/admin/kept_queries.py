"""Queries that a collection's policy keeps, for the officer: each reading is on the log."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_safe

from appliance.admin.base import PURPOSE, ReadOnlyAdmin, in_context, rendered
from appliance.web.purpose import actor_of
from retrieval import audit, kept_queries
from retrieval.errors import AccessDenied
from retrieval.models import KeptQuery, Kind


@admin.register(KeptQuery)
class KeptQueryAdmin(ReadOnlyAdmin):
    list_display = ["entry", "actor", "kept_at", "delete_after"]
    list_select_related = ["actor"]
    list_per_page = 50
    fields = ["id", "entry", "actor", "kept_at", "delete_after"]
    change_form_outer_after_template = "admin/kept_query.html"

    def get_urls(self) -> list[URLPattern]:
        protected: Any = self.admin_site.admin_view(require_safe(self.image_view))
        pattern = "<uuid:kept_id>/image/<int:number>/"
        return [path(pattern, protected, name="retrieval_keptquery_image"), *super().get_urls()]

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return actor_of(request).has_perm(kept_queries.RIGHT)

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.is_authenticated and self.has_view_permission(request)

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        with in_context(request):
            response = rendered(super().changelist_view(request, extra_context))
        audit.record(Kind.AUDIT_READ, actor=actor_of(request), purpose=PURPOSE, kept_queries=True)
        return response

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        try:
            kept_id = UUID(object_id)
        except (TypeError, ValueError) as error:
            raise AccessDenied("no such query") from error
        asked = kept_queries.read(kept_id, actor=actor_of(request))
        context = {
            "words": asked.words,
            "images": range(1, asked.images + 1),
            **(extra_context or {}),
        }
        with in_context(request):
            return rendered(super().changeform_view(request, object_id, form_url, context))

    def image_view(self, request: HttpRequest, kept_id: UUID, number: int) -> HttpResponse:
        """An example as it was sent: a download that no browser opens as a page."""
        content = kept_queries.read_image(kept_id, number, actor=actor_of(request))
        headers = {
            "Cache-Control": "private, no-store",
            "Content-Disposition": f'attachment; filename="{kept_id}-{number}.bin"',
            "Content-Security-Policy": "sandbox; default-src 'none'",
            "X-Content-Type-Options": "nosniff",
        }
        return HttpResponse(content, content_type="application/octet-stream", headers=headers)
