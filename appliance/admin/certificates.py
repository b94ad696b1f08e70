"""Certificates of private training, as they were signed, checked each time they are shown."""

import json
from collections.abc import Mapping
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import URLPattern, path
from django.views.decorators.http import require_safe

from appliance.admin.base import RecordedReadingAdmin, in_context
from appliance.web.purpose import actor_of
from retrieval import certificates, keys
from retrieval.errors import AccessDenied
from retrieval.models import Certificate, Kind


@admin.register(Certificate)
class CertificateAdmin(RecordedReadingAdmin):
    reading = Kind.CERTIFICATE_READ
    recorded_as = "certificates"
    list_display = ["issued_at", "encoder", "collection", "privacy", "signature"]
    list_select_related = ["encoder", "collection"]
    fields = ["id", "issued_at", "encoder", "collection", "privacy", "signature"]
    readonly_fields = ["privacy", "signature"]
    change_form_outer_after_template = "admin/certificate.html"

    @admin.display(description="privacy (ε, δ)")
    def privacy(self, certificate: Certificate) -> str:
        # From the document: whoever may read certificates need not see the ledger.
        fields = _verified(certificate).fields
        return f"ε {fields.get('epsilon')}, δ {fields.get('delta')}, per {fields.get('unit')}"

    @admin.display(description="signature")
    def signature(self, certificate: Certificate) -> str:
        verified = _verified(certificate)
        return "holds" if verified.holds else f"does not hold: {verified.problem}"

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(require_safe(self.download_view))
        name = "retrieval_certificate_download"
        return [path("<uuid:certificate_id>/download/", view, name=name), *super().get_urls()]

    def beside_row(self, request: HttpRequest, row: Certificate) -> dict[str, Any]:
        fields = _verified(row).fields
        events = [fields.get("audit_reserved"), fields.get("audit_settled"), row.event]
        return {
            "lines": _lines(fields),
            "events": [event for event in events if isinstance(event, int)],
            "may_read_log": actor_of(request).has_perm("retrieval.view_auditevent"),
        }

    def download_view(self, request: HttpRequest, certificate_id: Any) -> HttpResponse:
        """The document an auditor takes away. It holds numbers and digests only."""
        with in_context(request):
            row = self.get_queryset(request).filter(pk=certificate_id).first()
        if row is None or not self.has_view_permission(request):
            raise AccessDenied("no such certificate")
        self.record_reading(request, [str(row.pk)])
        return HttpResponse(
            row.document,
            content_type="application/json",
            headers={
                "Content-Disposition": f'attachment; filename="certificate-{row.pk}.json"',
                "Cache-Control": "no-store",
            },
        )


def _verified(certificate: Certificate) -> certificates.Verified:
    return certificates.verify(certificate.document, keys.public_key())


def _lines(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The signed fields by name, nested ones with a dot; none where the document is damaged."""
    lines: list[tuple[str, str]] = []
    for name, value in sorted(fields.items()):
        if isinstance(value, dict):
            lines += [(f"{name}.{inner}", _text(one)) for inner, one in sorted(value.items())]
        else:
            lines.append((name, _text(value)))
    return lines


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
