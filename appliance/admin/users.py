from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.auth.admin import GroupAdmin as DjangoGroupAdmin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path
from django.views.decorators.http import require_POST

from appliance.admin.base import FilteredAdmin
from appliance.web import sessions
from appliance.web.purpose import actor_of
from retrieval import audit, holds, second_factor
from retrieval.models import HoldReason, Kind, User

if TYPE_CHECKING:
    from django.contrib.auth.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm
else:
    from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm


HELD = "The account opens nothing until a second person lifts the hold on it."


class HandedOutPasswordForm(AdminPasswordChangeForm):  # type: ignore[type-arg]  # no runtime generics
    """A password somebody else knows is good for one sign-in, and the account is held."""

    def save(self, commit: bool = True) -> User:
        self.user.must_change_password = True
        user = super().save(commit)
        assert isinstance(user, User)  # noqa: S101  the one user model
        return user


class NewUserForm(UserCreationForm):  # type: ignore[type-arg]  # no runtime generics
    class Meta:
        model = User
        fields = ["username", "is_staff"]

    def save(self, commit: bool = True) -> User:
        self.instance.must_change_password = True
        user = super().save(commit)
        assert isinstance(user, User)  # noqa: S101  the one user model
        return user


class RecordedAdmin(FilteredAdmin):
    """What the administration writes into its own history goes onto the log as well: ids only."""

    subject = ""

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> Any:
        given = {name: ids for name, ids in self.rights_of(obj).items() if ids}
        self._record(request, obj, "added", **given)
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Model, message: Any) -> Any:
        parts = [part.get("changed", {}) for part in message if isinstance(part, dict)]
        fields = [str(name) for part in parts for name in part.get("fields", [])]
        self._record(request, obj, "changed", fields, **self.rights_of(obj))
        return super().log_change(request, obj, message)

    def rights_of(self, _obj: Model) -> dict[str, Any]:
        """Which rights a row gives now, by their ids: what the log keeps of it."""
        return {}

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        self._record(request, obj, "deleted")
        super().delete_model(request, obj)

    def _record(
        self,
        request: HttpRequest,
        obj: Model,
        change: str,
        fields: list[str] | None = None,
        **rights: Any,
    ) -> None:
        audit.record_in_transaction(
            Kind.USER_CHANGED,
            actor=actor_of(request),
            **{self.subject: obj.pk},
            change=change,
            fields=fields,
            **rights,
        )


@admin.register(User)
class UserAdmin(RecordedAdmin, DjangoUserAdmin):  # type: ignore[type-arg]  # no runtime generics
    """Accounts. They are closed, never deleted: the log refers to them."""

    subject = "user"
    form = UserChangeForm
    add_form = NewUserForm
    change_password_form = HandedOutPasswordForm
    list_display = ["username", "is_active", "is_staff", "is_superuser", "last_login"]
    list_filter = ["is_active", "is_staff", "groups"]
    search_fields = ["username"]
    fieldsets = [
        (None, {"fields": ["username", "password", "must_change_password", "directory"]}),
        ("Person", {"fields": ["first_name", "last_name", "email"]}),
        (
            "Rights in the administration",
            {
                "fields": ["is_active", "is_staff", "is_superuser", "groups", "user_permissions"],
                "description": "None of these opens an image: grants do.",
            },
        ),
    ]
    change_form_outer_after_template = "admin/second_factor.html"
    add_fieldsets = [(None, {"fields": ["username", "is_staff", "password1", "password2"]})]

    def rights_of(self, obj: Model) -> dict[str, Any]:
        assert isinstance(obj, User)  # noqa: S101  the one user model
        return {"groups": _ids(obj.groups), "permissions": _ids(obj.user_permissions)}

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """People. Programs have a page of their own, and nothing of what is edited here."""
        people: QuerySet[User] = super().get_queryset(request)
        return people.filter(responsible=None)

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        # A password that was handed out stays good for one sign-in.
        always = ["directory", "must_change_password"]
        if request.user.is_superuser:
            return always
        # Who may edit accounts could otherwise make their own one all-powerful.
        return [*always, "is_staff", "is_superuser", "groups", "user_permissions"]

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        has_rights = isinstance(obj, User) and (obj.is_superuser or obj.is_staff)
        if has_rights and not actor_of(request).is_superuser:
            return False  # nor take over an account that is, or one with rights of its own
        return super().has_change_permission(request, obj)

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if isinstance(obj, User) and not obj.is_active:
            sessions.end(obj)

    def get_urls(self) -> list[URLPattern]:
        protected: Any = self.admin_site.admin_view(require_POST(self.reset_second_factor))
        url = path(
            "<int:user_id>/second-factor/reset/",
            protected,
            name="retrieval_user_reset_second_factor",
        )
        return [url, *super().get_urls()]

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        user = self.get_object(request, object_id)
        context = dict(extra_context or {})
        if isinstance(user, User):
            context |= {
                "is_enrolled": second_factor.is_enrolled(user),
                "codes_left": second_factor.recovery_codes_left(user),
                "may_reset": self.may_reset_second_factor(request, user),
            }
        return super().change_view(request, object_id, form_url, context)

    def may_reset_second_factor(self, request: HttpRequest, user: User) -> bool:
        """Not one's own: whoever found a session open would take the account over."""
        return user.pk != request.user.pk and self.has_change_permission(request, user)

    def reset_second_factor(self, request: HttpRequest, user_id: int) -> HttpResponse:
        user = self.get_object(request, str(user_id))
        if not isinstance(user, User) or not self.may_reset_second_factor(request, user):
            raise PermissionDenied
        with transaction.atomic():
            second_factor.reset(user, actor=actor_of(request))
            holds.place(user, HoldReason.SECOND_FACTOR, by=actor_of(request))
        sessions.end(user)
        messages.success(request, f"Reset: a new app is set up at the next sign-in. {HELD}")
        return redirect("admin:retrieval_user_change", user.pk)

    def user_change_password(
        self,
        request: HttpRequest,
        id: str,
        form_url: str = "",
    ) -> HttpResponse:
        user = self.get_object(request, id)
        if user is not None and user.pk == request.user.pk:
            # Whoever found a session open does not know the old one.
            return redirect("change_password")
        with transaction.atomic():
            before = user.password if isinstance(user, User) else ""
            response: HttpResponse = super().user_change_password(request, id, form_url)
            if isinstance(user, User):
                user.refresh_from_db(fields=["password"])
                if user.password != before:
                    holds.place(user, HoldReason.PASSWORD, by=actor_of(request))
                    messages.success(request, HELD)
        return response


def _ids(rows: Any) -> list[int]:
    return sorted(rows.values_list("pk", flat=True))


admin.site.unregister(Group)


@admin.register(Group)
class GroupAdmin(RecordedAdmin, DjangoGroupAdmin):
    subject = "group"

    def rights_of(self, obj: Model) -> dict[str, Any]:
        assert isinstance(obj, Group)  # noqa: S101  registered for it
        return {"permissions": _ids(obj.permissions)}

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        # Who may edit groups could otherwise give rights to one of their own.
        return [] if request.user.is_superuser else ["permissions"]

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        # Its grants would go with it, each without an entry of its own: revoke them first.
        if isinstance(obj, Group) and obj.grant_set.exists():
            return False
        return super().has_delete_permission(request, obj)
