from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse

from appliance.admin.base import PURPOSE, FilteredAdmin, in_context, rendered
from appliance.admin.purposes import PurposesField, in_words
from appliance.web.purpose import actor_of
from retrieval import access, audit, tag_words
from retrieval.models import Collection, Kind, PrivacyProfile
from retrieval.models.grant import Capability
from retrieval.review import reviewed_boxes
from retrieval.tag_words import LEAST_IMAGES
from retrieval.tags import MAX_TAGS, require_fit

# Of docs/benchmarks.md, whose numbers it repeats.
COST = (
    "Of 433 faces in photographs and in harder pictures made of them (small, turned, dark, blurred,"
    " half hidden) a threshold of 0.3 finds 384, with 12 of 100 covers on no face; 0.2 finds 404,"
    " with 25; 0.13 finds 413, with 45. The search costs the same: several views of each picture,"
    " because the one view of stock deface misses faces that are small, turned or fill the picture."
    " At 640×480 that is about 2.4 times the processor time of stock deface, at 224×224 about 10"
    " times, at 12 megapixels 1.3 times; and the second look after covering takes it once more."
)


class CollectionForm(forms.ModelForm):  # type: ignore[type-arg]  # no runtime generics
    purposes = PurposesField(
        help_text="What may be granted here. Taking one away closes it for everybody at once."
    )

    minimum_cohort = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=32767,
        help_text=Collection._meta.get_field("minimum_cohort").help_text,
    )

    tag_words = forms.CharField(
        required=False,
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text=f"Words that the encoder tags images with where they fit, one a line; at most"
        f" {MAX_TAGS}, and no names of persons. From {LEAST_IMAGES} images on.",
    )

    class Meta:
        model = Collection
        fields = [
            "name",
            "description",
            "profile",
            "purposes",
            "minimum_cohort",
            "keep_queries_days",
            "finds_parts",
        ]

    may_set_tag_words = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["tag_words"].disabled = not self.may_set_tag_words
        if self.may_set_tag_words:
            self.initial["tag_words"] = "\n".join(tag_words.words_of(self.instance))
        # Empty says the same as 0, and is no change.
        self.initial["minimum_cohort"] = self.initial.get("minimum_cohort") or None

    def clean_minimum_cohort(self) -> int:
        return self.cleaned_data["minimum_cohort"] or 0

    def clean_tag_words(self) -> str:
        lines = self.cleaned_data["tag_words"].splitlines()
        words = list(dict.fromkeys(word for line in lines if (word := line.strip())))
        try:
            require_fit(words)
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error
        return "\n".join(words)


@admin.register(Collection)
class CollectionAdmin(FilteredAdmin):
    """Opened and described here; what is in one is seen by those with a grant only."""

    form = CollectionForm
    list_display = ["name", "profile", "purposes_of_use", "created_at"]
    list_select_related = ["profile"]
    search_fields = ["name"]

    @admin.display(description="purposes of use")
    def purposes_of_use(self, collection: Collection) -> str:
        return in_words(collection.purposes)

    def get_form(
        self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """With the tag words for who may import there: others neither see nor change them."""
        form = super().get_form(request, obj, change, **kwargs)
        ingested = access.collections_where(actor_of(request), PURPOSE, Capability.INGEST)
        form.may_set_tag_words = obj in ingested  # type: ignore[attr-defined]
        return form

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        with in_context(request):
            return rendered(super().changeform_view(request, object_id, form_url, extra_context))

    def save_model(self, request: HttpRequest, obj: Collection, form: Any, change: bool) -> None:
        if not change:
            opened = access.open_collection(
                name=obj.name,
                profile=obj.profile,
                actor=actor_of(request),
                description=obj.description,
                purposes=obj.purposes,
                minimum_cohort=obj.minimum_cohort,
                keep_queries_days=obj.keep_queries_days,
                finds_parts=obj.finds_parts,
            )
            obj.pk = opened.pk
            return
        if "tag_words" in form.changed_data:
            # First: what is saved next may end the right to it.
            words = form.cleaned_data["tag_words"].splitlines()
            tag_words.set_words(obj, words, actor=actor_of(request), purpose=PURPOSE)
        super().save_model(request, obj, form, change)
        audit.record_in_transaction(
            Kind.COLLECTION_CHANGED,
            actor=actor_of(request),
            collection=obj.pk,
            change="edited",
            fields=form.changed_data,
        )

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # a collection is erased, with a certificate


@admin.register(PrivacyProfile)
class PrivacyProfileAdmin(FilteredAdmin):
    """How pictures are covered. The floor stands in the database; images keep what they got,

    but what waits in review is looked at again before it can be released.
    """

    list_display = [
        "name",
        "cover",
        "shape",
        "mosaic_cells",
        "margin",
        "detection_threshold",
        "cover_text",
        "cover_codes",
    ]
    fieldsets = [
        (None, {"fields": ["name"]}),
        (
            "Covers",
            {
                "fields": ["cover", "shape", "mosaic_cells", "margin"],
                "description": "There is no blur: networks name people from blurred faces.",
            },
        ),
        (
            "How faces are looked for",
            {"fields": ["detection_threshold"], "description": COST},
        ),
        ("Writing and codes", {"fields": ["cover_text", "cover_codes", "text_allowed"]}),
    ]

    change_form_outer_before_template = "admin/profile_judged.html"

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With what reviewers say of its detectors, in the collections the actor may review."""
        context = extra_context or {}
        profile = self.get_object(request, object_id) if object_id else None
        if profile is not None and request.method == "GET" and self.has_view_permission(request):
            judged = reviewed_boxes(profile, actor=actor_of(request), purpose=PURPOSE)
            context = {"judged": judged, **context}
        response: HttpResponse = super().changeform_view(request, object_id, form_url, context)
        return response

    def save_model(
        self, request: HttpRequest, obj: PrivacyProfile, form: Any, change: bool
    ) -> None:
        super().save_model(request, obj, form, change)
        audit.record_in_transaction(
            Kind.PROFILE_CHANGED,
            actor=actor_of(request),
            profile=obj.pk,
            cover=obj.cover,
            shape=obj.shape,
            mosaic_cells=obj.mosaic_cells,
            margin=obj.margin,
            detection_threshold=obj.detection_threshold,
            cover_text=obj.cover_text,
            cover_codes=obj.cover_codes,
            text_allowed=obj.text_allowed,
        )

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False  # collections and past decisions refer to it
