import csv
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.text import Truncator
from django.views.decorators.http import require_POST, require_safe

from appliance.admin.base import PURPOSE, ReadOnlyAdmin, in_context, rendered
from appliance.web.purpose import actor_of
from retrieval import audit
from retrieval.audit import outside, subject
from retrieval.models import AuditEvent, Kind, Purpose

SUMMARY_CHARS = 90
MOST_DIGITS = 18


class PurposeFilter(admin.SimpleListFilter):
    title = "purpose of use"
    parameter_name = "purpose"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(p.value, str(p.label)) for p in Purpose]

    def queryset(self, request: HttpRequest, queryset: Any) -> Any:
        return queryset.filter(purpose=self.value()) if self.value() else queryset


class ActorFilter(admin.RelatedOnlyFieldListFilter):
    """Those who are on the log, not everybody who has an account."""


NARROWED_BY = ("kind", "purpose", "actor", "occurred_at")


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """The log, read only: the database has it append-only, and shows it to those who may read it.

    Reading it is on it, too.
    """

    list_display = ["number", "occurred_at", "kind", "actor", "purpose", "summary"]
    list_filter = [
        "kind",
        PurposeFilter,
        ("actor", ActorFilter),
        ("occurred_at", admin.DateFieldListFilter),
    ]
    list_select_related = ["actor"]
    list_per_page = 50
    show_full_result_count = False
    fields = ["number", "occurred_at", "kind", "actor", "purpose", "details", "fingerprint"]
    readonly_fields = ["fingerprint"]
    list_before_template = "admin/verify_log.html"

    @admin.display(description="details")
    def summary(self, event: AuditEvent) -> str:
        return Truncator(event.details).chars(SUMMARY_CHARS)

    @admin.display(description="SHA-256 of this entry and all before it")
    def fingerprint(self, event: AuditEvent) -> str:
        return bytes(event.entry_hash).hex()

    def get_urls(self) -> list[URLPattern]:
        def named(pattern: str, view: Any, name: str) -> URLPattern:
            protected: Any = self.admin_site.admin_view(view)
            url: URLPattern = path(pattern, protected, name=f"retrieval_auditevent_{name}")
            return url

        return [
            named("verify/", require_POST(self.verify_view), "verify"),
            named("subject/", require_safe(self.subject_view), "subject"),
            named("subject/export/", require_safe(self.subject_export), "subject_export"),
            *super().get_urls(),
        ]

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        with in_context(request):
            response = rendered(super().changelist_view(request, extra_context))
        self._record_reading(request)
        return response

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        with in_context(request):
            response = rendered(
                super().changeform_view(request, object_id, form_url, extra_context)
            )
        self._record_reading(request, entry=object_id)
        return response

    def _record_reading(self, request: HttpRequest, entry: str | None = None) -> None:
        # What a person typed into the address is not kept: known names and whole numbers only.
        page = request.GET.get("p", "")
        narrowed_by = [
            name for name in NARROWED_BY if any(key.startswith(name) for key in request.GET)
        ]
        audit.record(
            Kind.AUDIT_READ,
            actor=actor_of(request),
            purpose=PURPOSE,
            entry=_number(entry or ""),
            filters=narrowed_by,
            page=_number(page),
        )

    def subject_view(self, request: HttpRequest) -> HttpResponse:
        """Who saw images of a subject: asked by its number, in a table."""
        number, found = self._sightings(request)
        context = {
            **self.admin_site.each_context(request),
            "title": "Who saw images of a subject",
            "subject": number,
            "sightings": found,
        }
        return TemplateResponse(request, "admin/subject_report.html", context)

    def subject_export(self, request: HttpRequest) -> HttpResponse:
        """The same as a file for a spreadsheet. With proofs: `audit export --subject`."""
        number, found = self._sightings(request)
        if number is None:
            return redirect("admin:retrieval_auditevent_subject")
        file = HttpResponse(content_type="text/csv; charset=utf-8")
        file["Content-Disposition"] = f'attachment; filename="subject-{number}.csv"'
        writer = csv.writer(file)
        writer.writerow(["entry", "time", "kind", "user", "purpose"])
        writer.writerows(
            [s.number, s.occurred_at, s.kind, plain(s.actor), s.purpose] for s in found
        )
        return file

    def _sightings(self, request: HttpRequest) -> tuple[int | None, list[subject.Sighting]]:
        """The subject that is asked for, if any is, and who saw it; on the log by then."""
        if not actor_of(request).has_perm(subject.RIGHT):
            raise PermissionDenied
        asked = request.GET.get("subject", "")
        number = _number(asked)
        if number is None:
            return None, []
        with in_context(request):
            found = subject.sightings(number)
        subject.record_report(number, len(found), actor=actor_of(request))
        return number, found

    def verify_view(self, request: HttpRequest) -> HttpResponseRedirect:
        """Recompute chain and tree, hold them against the checkpoints kept outside."""
        if not self.has_view_permission(request):
            messages.error(request, "You may not read the log.")
            return redirect("admin:index")
        with in_context(request):
            verification = audit.verify(outside.configured())
        audit.record(
            Kind.AUDIT_VERIFIED,
            actor=actor_of(request),
            purpose=PURPOSE,
            entries=verification.entries,
            first_wrong=verification.first_wrong,
            checkpoint=verification.checkpoint,
        )
        if verification.holds:
            held = f"{verification.entries} entries, the chain holds."
            messages.success(request, f"{held} {against(verification)}")
        else:
            messages.error(request, problem(verification))
        return redirect("admin:retrieval_auditevent_changelist")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= MOST_DIGITS else None


def plain(name: str) -> str:
    """A name that begins like a formula stays a name, in a spreadsheet too."""
    return f"'{name}" if name[:1] in tuple("=+-@\t\r") else name


def problem(verification: audit.Verification) -> str:
    if verification.checkpoints_gone:
        return f"The log cannot be relied on: {verification.problem}."
    return f"Entry {verification.first_wrong}: {verification.problem}."


def against(verification: audit.Verification) -> str:
    if not verification.checkpoint:
        return "No checkpoint outside the database was there to hold against it."
    return f"Its first {verification.checkpoint} are those of the checkpoint outside."
