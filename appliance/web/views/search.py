"""The search page. A query travels in a form's body: never in an address, a log or a Referer."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from appliance.web import refused, ticket
from appliance.web.forms import SearchForm
from appliance.web.purpose import actor_of, of_session
from appliance.web.views.errors import TRY_AGAIN
from retrieval import access
from retrieval.errors import CloisterError
from retrieval.models.grant import Capability
from retrieval.search import Answer, Hit, near_duplicates, search

RESULTS = 40

NAMES_AN_IMAGE: Final = ("like", "copies", "liked", "disliked")


@dataclass(frozen=True)
class Result:
    """One hit, the ticket its thumbnail is fetched with, and how who looks has judged it."""

    hit: Hit
    ticket: str
    judged: str

    @property
    def address(self) -> str:
        """Of the image's page, on which the part is marked that the image was found by."""
        page = reverse("image", args=[self.hit.image_id])
        return f"{page}?found={self.hit.region}" if self.hit.region else page


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def search_page(request: HttpRequest) -> HttpResponse:
    actor, purpose = actor_of(request), of_session(request)
    searchable = access.collections_where(actor, purpose, Capability.SEARCH)
    if request.method != "POST":
        form = SearchForm(readable=searchable)
        return render(request, "search.html", {"form": form, "searchable": searchable})
    form = SearchForm(request.POST, request.FILES, readable=searchable)
    answer, problem, status = _answer(request, form)
    judged = _judged(form)
    results = (
        [
            Result(hit, ticket.issue(request, hit.image_id, purpose), judged.get(hit.image_id, ""))
            for hit in answer.hits
        ]
        if answer is not None
        else []
    )
    template = "results.html" if request.headers.get("HX-Request") else "search.html"
    context = {
        "form": form,
        "searchable": searchable,
        "answer": answer,
        "results": results,
        "problem": problem,
        # What was judged on an earlier page of results stays judged.
        "judged_before": {
            image_id: judgement
            for image_id, judgement in judged.items()
            if image_id not in {result.hit.image_id for result in results}
        },
    }
    response = render(request, template, context, status=status)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        response.headers["Retry-After"] = TRY_AGAIN["Retry-After"]
    return response


def _judged(form: SearchForm) -> dict[UUID, str]:
    """The images that who looks wants more of ("liked") or fewer ("disliked")."""
    asked = form.cleaned_data if form.is_valid() else {}
    return {image_id: name for name in ("liked", "disliked") for image_id in asked.get(name, ())}


def _answer(request: HttpRequest, form: SearchForm) -> tuple[Answer | None, str, int]:
    """The answer, or one sentence why there is none and the status it goes out with."""
    if not form.is_valid():
        return None, " ".join(str(e) for errors in form.errors.values() for e in errors), 400
    actor, purpose = actor_of(request), of_session(request)
    asked = form.cleaned_data
    try:
        query = None if asked["copies"] else form.query()
    except ValueError as error:
        # A Query's own sentence, which quotes nothing.
        return None, f"That is not a query: {error}.", 400
    try:
        if query is None:
            answer = near_duplicates(asked["copies"], actor=actor, purpose=purpose, limit=RESULTS)
        else:
            answer = search(query, actor=actor, purpose=purpose, limit=RESULTS)
    except (CloisterError, ValueError) as error:
        known = refused.why(error, names_an_image=any(asked[name] for name in NAMES_AN_IMAGE))
        if known is None:
            raise
        return None, *known
    return answer, "", 200
