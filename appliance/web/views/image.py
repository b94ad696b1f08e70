"""One image: its page and its de-identified pictures. All of it through `retrieval.look`."""

from uuid import UUID

from django.core.exceptions import SuspiciousOperation
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from appliance.web import ticket
from appliance.web.forms import read_tags
from appliance.web.purpose import actor_of, of_session
from retrieval import access, look, tags
from retrieval.errors import AccessDenied, Rejected
from retrieval.models import Image, Purpose, State
from retrieval.models.grant import Capability
from retrieval.models.image import Region
from retrieval.storage import Form

SMALL_PX = 360


@never_cache
@require_safe
def image_page(request: HttpRequest, image_id: UUID) -> HttpResponse:
    actor, purpose = actor_of(request), of_session(request)
    found = _found(request)
    seen = look.look_at(image_id, actor=actor, purpose=purpose)
    template = "image_part.html" if request.headers.get("HX-Request") else "image.html"
    opened = access.opened_by_glass(actor, originals=True)
    context = {
        "image": seen.image,
        "seen": seen,
        "found": found if seen.image.width else None,
        "is_small": is_small(seen.image),
        "is_indexed": seen.image.state == State.INDEXED,
        "may_tag": seen.image.collection
        in access.collections_where(actor, purpose, Capability.INGEST),
        "shows_original": purpose == Purpose.EMERGENCY and seen.image.collection_id in opened,
    }
    return render(request, template, context)


def is_small(image: Image) -> bool:
    """Whether it is shown enlarged: strips are not, which then would not fit."""
    sides = sorted((image.width or 0, image.height or 0))
    return 0 < sides[1] <= SMALL_PX and sides[1] <= 2 * sides[0]


def _found(request: HttpRequest) -> Region | None:
    """The part of the image that a search found it by."""
    asked = request.GET.get("found")
    try:
        return Region.parse(asked) if asked else None
    except ValueError as error:
        raise SuspiciousOperation from error


@require_POST
def change_tags(request: HttpRequest, image_id: UUID) -> HttpResponse:
    """Replace an image's tags, and show it with them."""
    try:
        tags.tag(
            image_id,
            read_tags(request.POST.get("tags", "")),
            actor=actor_of(request),
            purpose=of_session(request),
        )
    except ValueError as error:
        raise SuspiciousOperation from error
    return redirect("image", image_id)


@require_safe
def preview(request: HttpRequest, image_id: UUID, purpose: Purpose | None = None) -> HttpResponse:
    return jpeg(
        look.picture(
            image_id,
            Form.PREVIEW,
            actor=actor_of(request),
            purpose=purpose or of_session(request),
        )
    )


@require_safe
def thumbnail(request: HttpRequest, image_id: UUID, purpose: Purpose | None = None) -> HttpResponse:
    """Fetched with the ticket of a recorded answer only: see appliance.web.ticket."""
    purpose = purpose or of_session(request)
    if not ticket.opens(request, request.GET.get("ticket", ""), image_id, purpose):
        raise AccessDenied("no recorded answer shows this image")
    return jpeg(
        look.recorded_picture(image_id, Form.THUMBNAIL, actor=actor_of(request), purpose=purpose)
    )


@require_safe
def original(request: HttpRequest, image_id: UUID) -> HttpResponse:
    """Its pixels before anything was covered, for who broke the glass; a download, never a page."""
    try:
        content = look.original(image_id, actor=actor_of(request), purpose=of_session(request))
    except Rejected as rejected:
        raise AccessDenied(f"image {image_id}: {rejected.reason}") from rejected
    return jpeg(content, disposition=f'attachment; filename="{image_id}.jpg"')


def jpeg(content: bytes, *, disposition: str = "inline") -> HttpResponse:
    """A picture the appliance encoded itself, for this reader's eyes and no cache."""
    headers = {
        "Cache-Control": "private, no-store",
        "Content-Disposition": disposition,
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HttpResponse(content, content_type="image/jpeg", headers=headers)
