from django.contrib import admin

from appliance.admin.base import ReadOnlyAdmin
from retrieval.models import EncoderVersion


@admin.register(EncoderVersion)
class EncoderVersionAdmin(ReadOnlyAdmin):
    """Which models there are. They come, go live and retire by the `encoder` command."""

    list_display = [
        "name",
        "reads",
        "live",
        "dimensions",
        "licence",
        "privacy",
        "short_digest",
        "added_at",
    ]
    fields = [
        "name",
        "reads",
        "live",
        "digest",
        "dimensions",
        "licence",
        "source",
        "epsilon",
        "delta",
        "added_at",
    ]

    @admin.display(description="digest")
    def short_digest(self, encoder: EncoderVersion) -> str:
        return encoder.digest[:16]

    @admin.display(description="privacy (ε, δ)")
    def privacy(self, encoder: EncoderVersion) -> str:
        if encoder.epsilon is None:
            return "not trained on private images"
        return f"ε {encoder.epsilon:g}, δ {encoder.delta:g}"
