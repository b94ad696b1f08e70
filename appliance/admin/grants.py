from typing import Any

from django import forms
from django.contrib import admin
from django.http import HttpRequest

from appliance.admin.base import FilteredAdmin
from appliance.admin.purposes import PurposesField, in_words
from appliance.web.purpose import actor_of
from retrieval import audit
from retrieval.models import Grant, Kind, Purpose


class GrantForm(forms.ModelForm):  # type: ignore[type-arg]  # no runtime generics
    purposes = PurposesField()

    class Meta:
        model = Grant
        fields = ["user", "group", "collection", "role", "purposes", "valid_from", "valid_until"]

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean() or self.cleaned_data
        if (cleaned.get("user") is None) == (cleaned.get("group") is None):
            self.add_error("user", "A grant is given to a user or to a group: choose one.")
        collection = cleaned.get("collection")
        beyond = set(cleaned.get("purposes", [])) - set(collection.purposes if collection else ())
        if collection and beyond:
            names = ", ".join(sorted(Purpose(p).label for p in beyond))
            self.add_error("purposes", f"This collection is not open for: {names}.")
        begins, ends = cleaned.get("valid_from"), cleaned.get("valid_until")
        if begins and ends and ends <= begins:
            self.add_error("valid_until", "It would end before it begins.")
        return cleaned


@admin.register(Grant)
class GrantAdmin(FilteredAdmin):
    """Who may do what where, why and until when. Every change is on the log with the change."""

    form = GrantForm
    list_display = [
        "holder",
        "collection",
        "role",
        "purposes_of_use",
        "valid_from",
        "valid_until",
        "granted_by",
    ]
    list_select_related = ["user", "group", "collection", "granted_by"]
    list_filter = ["role", "collection", "user"]
    list_display_links = ["holder"]
    readonly_fields = ["granted_by"]

    @admin.display(description="user or group")
    def holder(self, grant: Grant) -> str:
        return grant.user.get_username() if grant.user else f"group {grant.group}"

    @admin.display(description="purposes of use")
    def purposes_of_use(self, grant: Grant) -> str:
        return in_words(grant.purposes)

    def save_model(self, request: HttpRequest, obj: Grant, form: Any, change: bool) -> None:
        obj.granted_by = actor_of(request)
        super().save_model(request, obj, form, change)
        self._record(request, obj, "changed" if change else "given")

    def delete_model(self, request: HttpRequest, obj: Grant) -> None:
        self._record(request, obj, "revoked")
        super().delete_model(request, obj)

    def _record(self, request: HttpRequest, grant: Grant, change: str) -> None:
        audit.record_in_transaction(
            Kind.GRANT_CHANGED,
            actor=actor_of(request),
            grant=grant.pk,
            collection=grant.collection_id,
            user=grant.user_id,
            group=grant.group_id,
            role=grant.role,
            purposes=grant.purposes,
            valid_until=None if grant.valid_until is None else grant.valid_until.isoformat(),
            change=change,
        )
