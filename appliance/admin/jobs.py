from datetime import timedelta
from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import Count, Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.urls import URLPattern, path
from django.utils import timezone
from django.utils.safestring import SafeString
from django.views.decorators.http import require_safe

from appliance.admin.base import GrantedAdmin, in_context, rendered
from retrieval import frames
from retrieval.errors import AccessDenied
from retrieval.models import Image, ImportBatch, State
from retrieval.models.image import SETTLED

# A batch has no end on record: while files still come in, the next one is moments away.
STILL_COMING_IN = timedelta(seconds=15)


@admin.register(ImportBatch)
class ImportBatchAdmin(GrantedAdmin):
    """Imports into collections the administrator has a grant for, as they run. Counts only."""

    list_display = ["started_at", "collection", "started_by", "progress"]
    list_select_related = ["collection", "started_by"]
    list_per_page = 25
    fields = ["id", "collection", "started_by", "started_at", "progress"]
    readonly_fields = ["progress"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[ImportBatch]:
        videos = frames.files(Image.objects.filter(batch=OuterRef("pk"), state=State.SPLIT))

        def having(*states: State) -> Any:
            """Files, of which a video that was split counts as its frames say."""
            plain = Q(images__state__in=states, images__video=None) & ~Q(images__state=State.SPLIT)
            these = videos.filter(outcome__in=states).order_by().values("batch")
            counted = Subquery(these.annotate(count=Count("pk")).values("count"))
            return Count("images", filter=plain) + Coalesce(counted, 0)

        batches: QuerySet[ImportBatch] = super().get_queryset(request)
        return batches.annotate(
            received=Count("images", filter=Q(images__video=None)),
            settled=having(*SETTLED),
            indexed=having(State.INDEXED),
            in_review=having(State.REVIEW),
            rejected=having(State.REJECTED),
            quarantined=having(State.QUARANTINED),
            newest=Max("images__received_at"),
        )

    @admin.display(description="progress")
    def progress(self, batch: Any) -> SafeString:
        came_in_last = batch.newest or batch.started_at
        is_running = (
            batch.settled < batch.received or timezone.now() - came_in_last < STILL_COMING_IN
        )
        context = {"batch": batch, "is_running": is_running}
        return render_to_string("admin/progress.html", context)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_safe(self.progress_view))
        name = "retrieval_importbatch_progress"
        return [path("<uuid:batch_id>/progress/", view, name=name), *super().get_urls()]

    def progress_view(self, request: HttpRequest, batch_id: UUID) -> HttpResponse:
        with in_context(request):
            batch = self.get_queryset(request).filter(pk=batch_id).first()
        if batch is None:
            raise AccessDenied("no such import")
        return HttpResponse(self.progress(batch), headers={"Cache-Control": "no-store"})

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        with in_context(request):
            return rendered(super().changelist_view(request, extra_context))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        with in_context(request):
            return rendered(super().changeform_view(request, object_id, form_url, extra_context))
