from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, InterfaceError, connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from retrieval import queue
from retrieval.errors import ServicesUnavailable


@login_not_required
@never_cache
@require_safe
def healthz(_request: HttpRequest) -> HttpResponse:
    """Whether database and broker answer; nothing else is told to whoever asks."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        queue.is_idle(queue.QUERY_QUEUE)
    except (DatabaseError, InterfaceError, ServicesUnavailable):
        return HttpResponse("unavailable\n", status=503, content_type="text/plain")
    return HttpResponse("ok\n", content_type="text/plain")
