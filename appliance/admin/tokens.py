"""Service accounts and their tokens. A token's text is shown once, in the answer that issues it.

No form here writes a row of tokens: each button is one call of `retrieval.tokens`.
"""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Model, OuterRef, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from appliance.admin.base import FilteredAdmin
from appliance.admin.purposes import PurposesField, in_words
from appliance.admin.users import RecordedAdmin
from appliance.web.purpose import actor_of
from retrieval import holds, tokens
from retrieval.errors import AccessDenied, NameTaken, TokenRefused
from retrieval.models import (
    ApiToken,
    Collection,
    HoldReason,
    Scope,
    ServiceAccount,
    TokenUse,
    User,
)
from retrieval.models.token import LONGEST_LIFE
from retrieval.tokens import MAX_OVERLAP

RIGHT = "retrieval.add_apitoken"


class AccountForm(forms.ModelForm):  # type: ignore[type-arg]  # no runtime generics
    responsible = forms.ModelChoiceField(
        User.objects.filter(responsible=None, is_active=True),
        help_text="The person who answers for it, and alone sees its tokens. Closing that person's"
        " account ends them. Given to another one, it is held until a second person agrees.",
    )

    class Meta:
        model = ServiceAccount
        fields = ["username", "responsible", "is_active"]

    def clean_responsible(self) -> User:
        """Who could not issue its tokens would leave it with none."""
        person: User = self.cleaned_data["responsible"]
        if not (person.is_staff and person.has_perm(RIGHT)):
            raise forms.ValidationError(
                "This person may not issue tokens: that takes staff status and “Can add api token”."
            )
        return person

    def clean_username(self) -> str:
        """Of people as well: Django asks among programs alone."""
        name: str = self.cleaned_data["username"]
        if User.objects.filter(username=name).exclude(pk=self.instance.pk).exists():
            raise forms.ValidationError("There is an account of that name.")
        return name


@admin.register(ServiceAccount)
class ServiceAccountAdmin(RecordedAdmin):
    """Programs. They have grants like everybody, no password, and nothing without a token."""

    subject = "user"
    form = AccountForm
    list_display = ["username", "responsible", "is_active"]
    list_select_related = ["responsible"]
    search_fields = ["username"]

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        return ["username", "responsible"] + ([] if obj is None else ["is_active"])

    def rights_of(self, obj: Any) -> dict[str, Any]:
        return {"responsible": obj.responsible_id}

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        if change:
            super().save_model(request, obj, form, change)
            if "responsible" in form.changed_data:
                holds.place(obj, HoldReason.RESPONSIBLE, by=actor_of(request))
            return
        opened = tokens.open_account(
            obj.username, responsible=obj.responsible, opened_by=actor_of(request)
        )
        obj.pk = opened.pk

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except (NameTaken, AccessDenied):
            messages.error(request, "There is an account of that name, or nobody answers for it.")
            return redirect("admin:retrieval_serviceaccount_add")

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # the log refers to it


class TokenForm(forms.ModelForm):  # type: ignore[type-arg]  # no runtime generics
    scopes = forms.MultipleChoiceField(choices=Scope.choices, widget=forms.CheckboxSelectMultiple)
    collections = forms.ModelMultipleChoiceField(Collection.objects.all())
    purposes = PurposesField()

    class Meta:
        model = ApiToken
        fields = [
            "account",
            "name",
            "scopes",
            "collections",
            "purposes",
            "per_minute",
            "queries_per_day",
            "expires_at",
        ]

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        cleaned["collections"] = [c.pk for c in cleaned.get("collections", [])]
        ends = cleaned.get("expires_at")
        if ends and not timezone.now() < ends <= timezone.now() + LONGEST_LIFE:
            self.add_error("expires_at", f"A token ends within {LONGEST_LIFE.days} days.")
        return cleaned


@admin.register(ApiToken)
class ApiTokenAdmin(FilteredAdmin):
    """What programs show. A token is not changed: it is rotated, or revoked."""

    form = TokenForm
    list_display = ["account", "name", "state", "scopes_in_words", "expires_at", "last_used_at"]
    list_select_related = ["account"]
    list_filter = ["account"]
    list_display_links = ["name"]
    change_form_outer_before_template = "admin/token_actions.html"

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "account":
            kwargs["queryset"] = ServiceAccount.objects.filter(responsible=actor_of(request))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        used = TokenUse.objects.filter(series=OuterRef("series")).values("last_used_at")
        found: QuerySet[ApiToken] = super().get_queryset(request)
        return found.annotate(used_at=Subquery(used))

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        if obj is None:
            return list(TokenForm.Meta.fields)
        return [
            "account",
            "name",
            "state",
            "scopes_in_words",
            "collections",
            "purposes_in_words",
            "per_minute",
            "queries_per_day",
            "created_by",
            "created_at",
            "expires_at",
            "last_used_at",
        ]

    @admin.display(description="state")
    def state(self, token: ApiToken) -> str:
        if token.revoked_at is not None:
            return "revoked"
        return "live" if token.is_live else "expired"

    @admin.display(description="scopes")
    def scopes_in_words(self, token: ApiToken) -> str:
        return ", ".join(token.scopes)

    @admin.display(description="purposes of use")
    def purposes_in_words(self, token: ApiToken) -> str:
        return in_words(token.purposes)

    @admin.display(description="last used", ordering="used_at")
    def last_used_at(self, token: Any) -> Any:
        return token.used_at

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # the log refers to it

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return request.user.has_perm(RIGHT) or super().has_view_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        issued, text = tokens.issue(**form.cleaned_data, issued_by=actor_of(request))
        obj.pk, obj.text = issued.pk, text

    def log_addition(self, request: HttpRequest, obj: Model, message: Any) -> Any:
        """Django's own history would name the account; the log has the entry."""

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        return self._told_once(request, obj, obj.text)

    def get_urls(self) -> list[URLPattern]:
        def posted(pattern: str, view: Any, name: str) -> URLPattern:
            protected: Any = self.admin_site.admin_view(require_POST(view))
            url: URLPattern = path(pattern, protected, name=f"retrieval_apitoken_{name}")
            return url

        return [
            posted("<int:token_id>/rotate/", self.rotate_view, "rotate"),
            posted("<int:token_id>/revoke/", self.revoke_view, "revoke"),
            *super().get_urls(),
        ]

    def rotate_view(self, request: HttpRequest, token_id: int) -> HttpResponse:
        hours = request.POST.get("overlap_h", "")
        most = int(MAX_OVERLAP.total_seconds()) // 3600
        is_number = hours.isascii() and hours.isdecimal() and len(hours) <= len(str(most))
        overlap_h = int(hours) if is_number else 0
        try:
            successor, text = tokens.rotate(
                self._token(request, token_id),
                overlap=timedelta(hours=min(overlap_h, most)),
                rotated_by=actor_of(request),
            )
        except TokenRefused:
            messages.error(request, "That token has ended, or is not yours: issue a new one.")
            return redirect("admin:retrieval_apitoken_change", token_id)
        return self._told_once(request, successor, text)

    def revoke_view(self, request: HttpRequest, token_id: int) -> HttpResponse:
        tokens.revoke(self._token(request, token_id), revoked_by=actor_of(request))
        messages.success(request, "Revoked: its next request is refused.")
        return redirect("admin:retrieval_apitoken_change", token_id)

    def _token(self, request: HttpRequest, token_id: int) -> ApiToken:
        if not request.user.has_perm(RIGHT):
            raise AccessDenied("no right to decide about tokens")
        return get_object_or_404(ApiToken, pk=token_id)

    def _told_once(self, request: HttpRequest, token: ApiToken, text: str) -> HttpResponse:
        """In the answer itself: a redirect would carry it through a cookie or the session."""
        context = {
            **self.admin_site.each_context(request),
            "title": "Token",
            "token": token,
            "text": text,
        }

        @never_cache
        def page(asked: HttpRequest) -> HttpResponse:
            return TemplateResponse(asked, "admin/token_issued.html", context)

        return page(request)
