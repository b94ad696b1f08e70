"""The review queue and one image of it. What is decided goes through `retrieval.review`."""

from dataclasses import dataclass
from uuid import UUID

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from appliance.web import ticket
from appliance.web.forms import DecisionForm, drawn_boxes, removed_boxes, whole_number
from appliance.web.purpose import actor_of, of_session
from retrieval import review
from retrieval.models import BoxKind, Image, RemovalReason, ReviewBox, Source


@dataclass(frozen=True)
class Row:
    """One waiting image and the ticket its thumbnail is fetched with."""

    image: Image
    ticket: str


@dataclass(frozen=True)
class Shape:
    """One box as the page draws and lists it. points: x,y of its corners for slanted writing."""

    box: ReviewBox
    points: str
    is_cover: bool


@never_cache
@require_safe
def queue_page(request: HttpRequest) -> HttpResponse:
    purpose = of_session(request)
    waiting = review.waiting(actor=actor_of(request), purpose=purpose)
    rows = [Row(image, ticket.issue(request, image.pk, purpose)) for image in waiting.images]
    return render(request, "review_queue.html", {"rows": rows, "count": waiting.count})


@never_cache
@require_safe
def case_page(request: HttpRequest, image_id: UUID) -> HttpResponse:
    try:
        return _case(request, image_id)
    except review.NotDecidable as error:
        return _conflict(request, image_id, error)


@require_POST
def change_boxes(request: HttpRequest, image_id: UUID) -> HttpResponse:
    """Draw and take off boxes; the page then waits for the picture that is covered anew."""
    try:
        review.change_boxes(
            image_id,
            render=whole_number(request.POST.get("render", "")),
            drawn=drawn_boxes(request.POST),
            removed=removed_boxes(request.POST),
            actor=actor_of(request),
            purpose=of_session(request),
        )
    except review.NotDecidable as error:
        return _conflict(request, image_id, error)
    except ValueError:
        problem = "Draw a box inside the picture, or choose why one is to be taken off."
        return _again(request, image_id, problem)
    return redirect("review_case", image_id=image_id)


@require_POST
def decide(request: HttpRequest, image_id: UUID) -> HttpResponse:
    """Release, reject or run again; then on to the next image."""
    form = DecisionForm(request.POST)
    if not form.is_valid():
        return _again(request, image_id, "Choose what to do with the image.")
    actor, purpose = actor_of(request), of_session(request)
    try:
        if form.cleaned_data["decision"] == "release":
            seen = whole_number(request.POST.get("render", ""))
            review.release(image_id, render=seen, actor=actor, purpose=purpose)
        elif form.cleaned_data["decision"] == "reject":
            review.reject(image_id, actor=actor, purpose=purpose)
        else:
            review.retry(image_id, actor=actor, purpose=purpose)
    except review.NotDecidable as error:
        return _conflict(request, image_id, error)
    except ValueError:
        return _again(request, image_id, "Look at the image, then decide.")
    return _next(form.cleaned_data["next"])


def _next(image_id: UUID | None) -> HttpResponseRedirect:
    return redirect("review_case", image_id=image_id) if image_id else redirect("review")


def _case(
    request: HttpRequest, image_id: UUID, problem: str = "", status: int = 200
) -> HttpResponse:
    case = review.look_at(image_id, actor=actor_of(request), purpose=of_session(request))
    context = {
        "case": case,
        "image": case.image,
        "shapes": [_shape(box) for box in case.boxes],
        "needs_rerun": review.waits_for_rerun(case.image),
        "kinds": BoxKind.choices,
        "reasons": RemovalReason.choices,
        "problem": problem,
    }
    return render(request, "review_case.html", context, status=status)


def _again(request: HttpRequest, image_id: UUID, problem: str) -> HttpResponse:
    try:
        return _case(request, image_id, problem, status=400)
    except review.NotDecidable as error:
        return _conflict(request, image_id, error)


def _conflict(request: HttpRequest, image_id: UUID, error: Exception) -> HttpResponse:
    """What a reviewer is told who comes second."""
    context = {
        "image_id": image_id,
        "is_outdated": isinstance(error, review.Outdated),
        "needs_another": isinstance(error, review.TakenOffByYou),
    }
    return render(request, "review_conflict.html", context, status=409)


def _shape(box: ReviewBox) -> Shape:
    numbers = box.corners or []
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    return Shape(
        box=box,
        points=" ".join(f"{x},{y}" for x, y in pairs),
        is_cover=box.source != Source.LAST_LOOK,
    )
