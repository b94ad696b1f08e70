"""What may be looked into, in numbers: see `retrieval.overview` for which are withheld."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from appliance.web.purpose import actor_of, of_session
from retrieval.overview import overviews


@never_cache
@require_safe
def page(request: HttpRequest) -> HttpResponse:
    found = overviews(actor=actor_of(request), purpose=of_session(request))
    return render(request, "collections.html", {"overviews": found})
