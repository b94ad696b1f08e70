"""One image: its page and its de-identified pictures. All of it through `retrieval.look`."""

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from appliance.web import ticket
from appliance.web.purpose import actor_of, of_session
from retrieval import look
from retrieval.errors import AccessDenied
from retrieval.models import Purpose, State
from retrieval.storage import Form


@never_cache
@require_safe
def image_page(request: HttpRequest, image_id: UUID) -> HttpResponse:
    seen = look.look_at(image_id, actor=actor_of(request), purpose=of_session(request))
    template = "image_part.html" if request.headers.get("HX-Request") else "image.html"
    context = {"image": seen.image, "seen": seen, "is_indexed": seen.image.state == State.INDEXED}
    return render(request, template, context)


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


def jpeg(content: bytes) -> HttpResponse:
    """A picture the appliance encoded itself, for this reader's eyes and no cache."""
    headers = {
        "Cache-Control": "private, no-store",
        "Content-Disposition": "inline",
        "Cross-Origin-Resource-Policy": "same-origin",
        "X-Content-Type-Options": "nosniff",
    }
    return HttpResponse(content, content_type="image/jpeg", headers=headers)
