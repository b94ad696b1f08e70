"""What the subjects share: read-only tables, and views that run in the administrator's name."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db.models import Model
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from appliance.web.purpose import actor_of
from retrieval import access, audit
from retrieval.models import Kind, Purpose

if TYPE_CHECKING:
    from django.contrib.admin import ModelAdmin as ModelAdmin  # noqa: PLC0414  handed on
else:
    import unfold.admin

    class ModelAdmin(unfold.admin.ModelAdmin):
        def __class_getitem__(cls, _model: type) -> type:
            return cls


PURPOSE = Purpose.ADMINISTRATION


class FilteredAdmin(ModelAdmin[Any]):
    """A list is narrowed by what its filters offer. Django would take every column of the row:

    sealed names, digests and hashes that no page shows could be asked for sign by sign.
    """

    def lookup_allowed(  # type: ignore[override]  # a list is always asked for by a request
        self, lookup: str, value: Any, request: HttpRequest
    ) -> bool:
        offered = [_name_of(each) for each in self.get_list_filter(request)]
        is_offered = any(lookup == name or lookup.startswith(f"{name}__") for name in offered)
        return is_offered and super().lookup_allowed(lookup, value, request)


def _name_of(offered: Any) -> str:
    """A filter is named by a field, a pair that begins with one, or a class of its own."""
    name = offered[0] if isinstance(offered, tuple) else offered
    return str(getattr(name, "parameter_name", name))


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


class ReadOnlyAdmin(FilteredAdmin):
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


class RecordedReadingAdmin(ReadOnlyAdmin):
    """Rows are shown in the administrator's name, and which ones were is on the log first."""

    reading: Kind
    recorded_as: str  # the name of the ids in the entry

    def recorded_id(self, row: Any) -> str:
        return str(row.pk)

    def beside_list(self, request: HttpRequest) -> dict[str, Any]:
        """What the list's page needs besides its rows. In the administrator's context."""
        return {}

    def beside_row(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What a row's page needs besides the row. In the administrator's context."""
        return {}

    def record_reading(self, request: HttpRequest, ids: Sequence[str]) -> None:
        audit.record(
            self.reading, actor=actor_of(request), purpose=PURPOSE, **{self.recorded_as: ids}
        )

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        with in_context(request):
            context = self.beside_list(request) | (extra_context or {})
            response: Any = rendered(super().changelist_view(request, context))
            changelist = getattr(response, "context_data", {}).get("cl")
            rows = changelist.result_list if changelist else []
            shown = [self.recorded_id(row) for row in rows]
        self.record_reading(request, shown)
        return response  # type: ignore[no-any-return]  # unfold has no types

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        shown: list[str] = []
        with in_context(request):
            row = self.get_object(request, object_id or "") if object_id else None
            context = dict(extra_context or {})
            if row is not None and self.has_view_permission(request):
                shown = [self.recorded_id(row)]
                context |= self.beside_row(request, row)
            response = rendered(super().changeform_view(request, object_id, form_url, context))
        self.record_reading(request, shown)
        return response
