"""What the subjects share: read-only tables, and views that run in the administrator's name."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from appliance.web.purpose import actor_of
from retrieval import access
from retrieval.models import Purpose

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as ModelAdmin  # noqa: PLC0414  handed on
else:
    import unfold.admin

    class ModelAdmin(unfold.admin.ModelAdmin):
        def __class_getitem__(cls, _model: type) -> type:
            return cls


PURPOSE = Purpose.ADMINISTRATION


@contextmanager
def in_context(request: HttpRequest) -> Iterator[None]:
    """The database shows what the signed-in user was granted for administration."""
    with access.acting_as(actor_of(request), PURPOSE):
        yield


def rendered(response: HttpResponse) -> HttpResponse:
    """Rendered now, while the context holds: a template asks the database as it goes."""
    if isinstance(response, TemplateResponse):
        response.render()
    return response


class ReadOnlyAdmin(ModelAdmin[Any]):
    """Rows are looked at. Nobody adds, changes or deletes one here."""

    def has_add_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


class GrantedAdmin(ReadOnlyAdmin):
    """Whoever has access to the administration may open it; grants decide what is in it."""

    def has_module_permission(self, request: HttpRequest) -> bool:
        return request.user.is_active and request.user.is_staff

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return self.has_module_permission(request)
