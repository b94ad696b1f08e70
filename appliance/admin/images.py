"""Images in the administration: what an administrator holds a grant for, and nothing un-redacted.

Every list and every page is on the log, with the ids it shows, before it goes out.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final
from uuid import UUID

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST

from appliance.admin.base import PURPOSE, GrantedAdmin, in_context, rendered
from appliance.web import ticket
from appliance.web.purpose import actor_of
from appliance.web.views import image as image_views
from retrieval import access, audit, look, review, storage
from retrieval.errors import AccessDenied
from retrieval.models import Image, Kind, State
from retrieval.models.grant import Capability

DECISIONS: Final[dict[str, Callable[..., None]]] = {
    "reject": review.reject,
    "retry": review.retry,
}


_MOST_DIGITS: Final = 9


class ReadableCollectionFilter(admin.SimpleListFilter):
    """Names only the collections that the administrator may look into."""

    title = "collection"
    parameter_name = "collection"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        readable = access.collections_where(actor_of(request), PURPOSE, Capability.VIEW)
        return [(str(c.pk), c.name) for c in readable]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        value = self.value()
        known = _number(value or "")
        return queryset if known is None else queryset.filter(collection=known)


@admin.register(Image)
class ImageAdmin(GrantedAdmin):
    list_filter = ["state", "reason", ReadableCollectionFilter]
    list_select_related = ["collection"]
    list_per_page = 30
    list_disable_select_all = True
    show_full_result_count = False
    actions = ["reject", "retry"]
    change_form_outer_before_template = "admin/image_decisions.html"

    # The list's menu; `changelist_view` takes them before Django would run them in its context.
    @admin.action(description="Reject")
    def reject(self, request: HttpRequest, images: object) -> None: ...

    @admin.action(description="Retry")
    def retry(self, request: HttpRequest, images: object) -> None: ...

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        reviewed = _reviewed_by(request)

        @admin.display(description="")
        def thumbnail(image: Image) -> SafeString:
            if not look.is_shown(image, may_review=image.collection_id in reviewed):
                return SafeString('<span class="cloister-no-picture"></span>')
            url = reverse("admin:retrieval_image_thumbnail", args=[image.pk])
            opened_by = ticket.issue(request, image.pk, PURPOSE)
            return format_html(
                '<img class="cloister-thumbnail" src="{}?ticket={}" alt="" loading="lazy">',
                url,
                opened_by,
            )

        return [thumbnail, "id", "state", "reason", "collection", "faces_covered", "received_at"]

    def get_list_display_links(self, request: HttpRequest, list_display: Any) -> list[Any]:
        return ["id"]

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """No keys, no hashes, no sealed names; the source's name only where it may be seen."""
        fields = ["preview", "id", "collection", "state", "reason", "media_type", "dimensions"]
        fields += ["covers", "received_at", "indexed_at"]
        named = access.collections_where(actor_of(request), PURPOSE, Capability.SEE_SOURCE_NAMES)
        if obj is not None and obj.collection_id in {c.pk for c in named}:
            fields.insert(2, "source_name")
        if obj is None or not _may_see(request, obj):
            fields.remove("preview")
        if obj is not None and obj.video_id is not None:
            fields += ["video", "time_in_video"]
        return fields

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        return self.get_fields(request, obj)

    @admin.display(description="faces")
    def faces_covered(self, image: Image) -> int:
        return len(image.faces)

    @admin.display(description="de-identified preview")
    def preview(self, image: Image) -> SafeString:
        url = reverse("admin:retrieval_image_preview", args=[image.pk])
        return format_html(
            '<img class="cloister-preview" src="{}" alt="De-identified preview">', url
        )

    @admin.display(description="source name")
    def source_name(self, image: Image) -> str:
        return storage.source_name(image)

    @admin.display(description="time in video")
    def time_in_video(self, image: Image) -> str:
        return str(image.time)

    @admin.display(description="dimensions")
    def dimensions(self, image: Image) -> str:
        return f"{image.width} × {image.height} px" if image.width else "not decoded yet"

    @admin.display(description="covered faces (x, y, width, height)")
    def covers(self, image: Image) -> str:
        if not image.faces:
            return "none found"
        rows = (
            (", ".join(f"{side:.0f}" for side in face["box"]), face["score"], face["detector"])
            for face in image.faces
        )
        return format_html_join(SafeString("<br>"), "{}: score {}, {}", rows)

    def get_urls(self) -> list[URLPattern]:
        def named(pattern: str, view: Any, name: str) -> URLPattern:
            protected: Any = self.admin_site.admin_view(view)
            url: URLPattern = path(
                f"<uuid:image_id>/{pattern}/", protected, name=f"retrieval_image_{name}"
            )
            return url

        return [
            named("preview", partial(image_views.preview, purpose=PURPOSE), "preview"),
            named("thumbnail", partial(image_views.thumbnail, purpose=PURPOSE), "thumbnail"),
            named("decide", require_POST(self.decide_view), "decide"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        if request.method == "POST":
            chosen = request.POST.getlist("_selected_action")
            _decide(request, request.POST.get("action", ""), chosen, DECISIONS)
            return redirect(request.get_full_path())
        with in_context(request):
            response: Any = rendered(super().changelist_view(request, extra_context))
            changelist = getattr(response, "context_data", {}).get("cl")
            shown = list(changelist.result_list) if changelist else []
        audit.record(
            Kind.IMAGES_LISTED,
            actor=actor_of(request),
            purpose=PURPOSE,
            images=[image.pk for image in shown],
            subjects=sorted({i.subject_id for i in shown if i.subject_id is not None}),
        )
        return response  # type: ignore[no-any-return]  # unfold has no types

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        actor, image_id = actor_of(request), None
        try:
            image_id = UUID(object_id)
            with in_context(request):
                image = access.find_image(image_id, actor=actor, purpose=PURPOSE)
                context = {"decisions": _open_decisions(request, image)} | (extra_context or {})
                response = rendered(super().changeform_view(request, object_id, form_url, context))
        except (AccessDenied, TypeError, ValueError) as error:
            audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=PURPOSE, image=image_id)
            raise AccessDenied("no such image") from error
        audit.record(
            Kind.IMAGE_VIEWED,
            actor=actor,
            purpose=PURPOSE,
            image=image_id,
            subject=image.subject_id,
            form="administration",
        )
        return response

    def decide_view(self, request: HttpRequest, image_id: UUID) -> HttpResponseRedirect:
        decisions = dict(DECISIONS)
        if render := _number(request.POST.get("render", "")):
            # One image at a time, from the page that shows it: no list is enough to release from.
            decisions["release"] = partial(review.release, render=render)
        _decide(request, request.POST.get("decision", ""), [str(image_id)], decisions)
        return redirect("admin:retrieval_image_changelist")


def _reviewed_by(request: HttpRequest) -> set[int]:
    reviewed = access.collections_where(actor_of(request), PURPOSE, Capability.REVIEW)
    return {c.pk for c in reviewed}


def _may_see(request: HttpRequest, image: Image) -> bool:
    return look.is_shown(image, may_review=image.collection_id in _reviewed_by(request))


def _open_decisions(request: HttpRequest, image: Image) -> list[str]:
    """Which buttons the page shows. `retrieval.review` decides again who may press them."""
    if image.state == State.REVIEW:
        if image.collection_id not in _reviewed_by(request):
            return []
        return ["retry" if review.waits_for_rerun(image) else "release", "reject"]
    stuck = (State.QUARANTINED, State.RECEIVED, State.DEIDENTIFIED)
    ingested = access.collections_where(actor_of(request), PURPOSE, Capability.INGEST)
    return ["retry"] if image.state in stuck and image.collection in ingested else []


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < _MOST_DIGITS else None


def _decide(
    request: HttpRequest,
    name: str,
    chosen: Iterable[str],
    decisions: Mapping[str, Callable[..., None]],
) -> None:
    """Decide about each image in a transaction of its own, and say how many were."""
    decide = decisions.get(name)
    if decide is None:
        messages.error(request, "Choose what to do with the images.")
        return
    done = refused = 0
    for text in chosen:
        try:
            decide(UUID(text), actor=actor_of(request), purpose=PURPOSE)
        except (AccessDenied, review.NotDecidable, ValueError):
            refused += 1
        else:
            done += 1
    if done:
        messages.success(request, f"{name.capitalize()}: {done} done.")
    if refused:
        messages.warning(
            request, f"{name.capitalize()}: not possible for {refused}, which stay as they are."
        )
