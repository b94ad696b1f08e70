import re
from typing import Any
from uuid import UUID

from django import forms
from django.contrib.auth import authenticate
from django.contrib.auth.forms import PasswordChangeForm
from django.http import HttpRequest, QueryDict

from retrieval.break_glass import LEAST_REASON_CHARS, MAX_REASON_CHARS
from retrieval.index import Filter
from retrieval.models import BoxKind, Collection, Purpose, RemovalReason, User
from retrieval.models.image import Region
from retrieval.query import Group, LookIn, Part, Query
from retrieval.review import Drawn

MAX_WORDS = 500
VARIETY = 0.5
DAYS = ("taken_from", "taken_until", "received_from", "received_until")
NARROWING = (*DAYS, "media_type", "modality", "tags", "peoples_tags", "variety", "group", "look_in")
GROUPS = [("", "(all)"), *((group.value, group.value) for group in Group)]
LOOK_IN = [("", "pictures and reports"), *((each, each) for each in ("pictures", "reports"))]
MEDIA_TYPES = [
    ("", "(any)"),
    ("application/dicom", "DICOM"),
    *((name, name.partition("/")[2].upper()) for name in ("image/jpeg", "image/png")),
    *((name, name.partition("/")[2].upper()) for name in ("image/tiff", "image/heif")),
    *((name, f"Video ({name.partition('/')[2]})") for name in ("video/mp4", "video/webm")),
]


class RegionField(forms.CharField):
    """A rectangle as "left, top, width, height" in pixels of the upright image, or None."""

    def __init__(self, **options: Any) -> None:
        hint = {"placeholder": "left, top, width, height", "inputmode": "numeric"}
        widget = forms.TextInput(attrs=hint | {"autocomplete": "off"})
        super().__init__(required=False, max_length=60, widget=widget, **options)

    def clean(self, value: Any) -> Region | None:
        text = super().clean(value)
        if not text:
            return None
        try:
            return Region(*(whole_number(side.strip()) for side in text.split(",")))
        except (TypeError, ValueError) as error:
            message = "A part of an image is four numbers of pixels: left, top, width, height."
            raise forms.ValidationError(message) from error


class UUIDsField(forms.Field):
    """Ids of stored images, each in a field of its own of one name."""

    widget = forms.MultipleHiddenInput

    def __init__(self) -> None:
        super().__init__(required=False)

    def clean(self, value: Any) -> tuple[UUID, ...]:
        try:
            return tuple(dict.fromkeys(UUID(each) for each in value or ()))
        except ValueError as error:
            raise forms.ValidationError("There is no such image.") from error


class DayField(forms.DateField):
    def __init__(self, **options: Any) -> None:
        widget = forms.DateInput(attrs={"type": "date"}, format="%Y-%m-%d")
        super().__init__(required=False, input_formats=["%Y-%m-%d"], widget=widget, **options)


def read_tags(text: str) -> tuple[str, ...]:
    """From words with commas between them."""
    return tuple(dict.fromkeys(tag for each in text.split(",") if (tag := each.strip())))


class SearchForm(forms.Form):
    """Words, an example image, a stored image, or a mix. The choices are what the user may read."""

    words = forms.CharField(
        label="Search for",
        required=False,
        max_length=MAX_WORDS,
        widget=forms.TextInput(
            attrs={
                "type": "search",
                "placeholder": "Describe what you are looking for",
                "autocomplete": "off",
                "spellcheck": "false",
            }
        ),
    )
    without = forms.CharField(
        label="Not",
        required=False,
        max_length=MAX_WORDS,
        widget=forms.TextInput(
            attrs={"placeholder": "what it should not show", "autocomplete": "off"}
        ),
    )
    image = forms.FileField(
        label="Example image",
        required=False,
        max_length=255,
        widget=forms.FileInput(attrs={"accept": "image/*,.dcm"}),
    )
    region = RegionField(label="Only this part of it")
    like = forms.UUIDField(required=False)
    like_region = RegionField()
    copies = forms.UUIDField(required=False)
    liked = UUIDsField()
    disliked = UUIDsField()
    subject = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1)
    taken_from = DayField(label="Taken from")
    taken_until = DayField(label="Taken until")
    received_from = DayField(label="Received from")
    received_until = DayField(label="Received until")
    media_type = forms.ChoiceField(label="Kind of file", required=False, choices=MEDIA_TYPES)
    modality = forms.CharField(label="Modality", required=False, max_length=16)
    tags = forms.CharField(label="Tags", required=False, max_length=MAX_WORDS)
    peoples_tags = forms.CharField(label="Tags by people", required=False, max_length=MAX_WORDS)
    variety = forms.BooleanField(label="More variety", required=False)
    group = forms.ChoiceField(label="One image for each", required=False, choices=GROUPS)
    look_in = forms.ChoiceField(label="Look for words in", required=False, choices=LOOK_IN)
    collections = forms.TypedMultipleChoiceField(
        label="Collections", required=False, coerce=int, widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, *args: Any, readable: list[Collection], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(c.pk, c.name) for c in readable]
        field = self.fields["collections"]
        assert isinstance(field, forms.TypedMultipleChoiceField)  # noqa: S101  declared above
        field.choices = choices
        if not any(collection.has_reports for collection in readable):
            del self.fields["look_in"]

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        others = [cleaned.get(name) for name in ("image", "like", "liked", "disliked")]
        if cleaned.get("look_in") == LookIn.REPORTS and any(others):
            raise forms.ValidationError("Reports are searched by words alone.")
        wanted = [cleaned.get(name) for name in ("words", "image", "like", "liked", "copies")]
        if not self.errors and not any(wanted):
            raise forms.ValidationError("Type some words or add an example image.")
        if cleaned.get("region") and not cleaned.get("image"):
            raise forms.ValidationError("A part of an example needs the example image.")
        return cleaned

    def query(self) -> Query:
        """What a valid form asks for. Raises ValueError where there is too much of something."""
        asked = self.cleaned_data
        parts = []
        if asked["image"]:
            parts.append(Part(image=asked["image"].read(), region=asked["region"]))
        if asked["like"]:
            parts.append(Part(like=asked["like"], region=asked["like_region"]))
        where = Filter(
            **{name: asked[name] for name in DAYS},
            media_types=(asked["media_type"],) if asked["media_type"] else (),
            modalities=(asked["modality"].upper(),) if asked["modality"] else (),
            tags=read_tags(asked["tags"]),
            peoples_tags=read_tags(asked["peoples_tags"]),
            subjects=(asked["subject"],) if asked["subject"] else (),
        )
        return Query(
            words=asked["words"],
            without=asked["without"],
            parts=tuple(parts),
            liked=asked["liked"],
            disliked=asked["disliked"],
            where=where,
            diversity=VARIETY if asked["variety"] else 0.0,
            group=Group(asked["group"]) if asked["group"] else None,
            collections=asked["collections"] or None,
            look_in=LookIn(asked.get("look_in") or LookIn.BOTH),
        )

    def narrowing(self) -> list[forms.BoundField]:
        """The fields that are folded away."""
        return [self[name] for name in NARROWING if name in self.fields]

    def narrows(self) -> bool:
        """Whether the part of the form that is folded away says something."""
        return self.is_bound and any(self.data.get(name) for name in NARROWING)


class PurposeForm(forms.Form):
    purpose = forms.ChoiceField(label="Purpose of use")

    def __init__(self, *args: Any, granted: list[Purpose], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field = self.fields["purpose"]
        assert isinstance(field, forms.ChoiceField)  # noqa: S101  declared above
        field.choices = [(p.value, p.label) for p in granted]


class BreakGlassForm(forms.Form):
    """What is opened, why, and once more who asks. The name is typed: a list would tell names."""

    collection = forms.CharField(label="Collection", max_length=100)
    reason = forms.CharField(
        label="Reason",
        min_length=LEAST_REASON_CHARS,
        max_length=MAX_REASON_CHARS,
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    originals = forms.BooleanField(label="Original pixels as well", required=False)
    password = forms.CharField(
        label="Your password",
        max_length=4096,
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "current-password"}),
    )


class DecisionForm(forms.Form):
    """What is done with an image in review, and where one goes on."""

    decision = forms.ChoiceField(choices=[(name, name) for name in ("release", "reject", "retry")])
    next = forms.UUIDField(required=False)


def drawn_boxes(data: QueryDict) -> list[Drawn]:
    """Boxes from `box` values, "KIND X Y WIDTH HEIGHT", and from the five fields of the form.

    Raises ValueError for what is neither.
    """
    sides = [data.get(name, "").strip() for name in ("x", "y", "width", "height")]
    texts = data.getlist("box")
    if any(sides):
        texts.append(" ".join([data.get("kind", ""), *sides]))
    return [_drawn(text) for text in texts]


def _drawn(text: str) -> Drawn:
    kind, x, y, w, h = text.split(" ")
    return Drawn(
        BoxKind(kind), (whole_number(x), whole_number(y), whole_number(w), whole_number(h))
    )


def removed_boxes(data: QueryDict) -> dict[int, RemovalReason]:
    """Why a box is taken off, by its id, from `remove-ID` values. Empty ones stay on."""
    prefix = "remove-"
    return {
        whole_number(name.removeprefix(prefix)): RemovalReason(str(reason))
        for name, reason in data.items()
        if name.startswith(prefix) and reason
    }


def whole_number(text: str) -> int:
    """Raises ValueError for what is no whole number of at most nine digits."""
    if re.fullmatch(r"-?[0-9]{1,9}", text) is None:
        raise ValueError("not a whole number")
    return int(text)


class CodeForm(forms.Form):
    """A code of an authenticator app, or a recovery code."""

    code = forms.CharField(max_length=60)


class OwnPasswordForm(PasswordChangeForm):
    """A new password that is new, from who knows the old one.

    Counted like a try to sign in: who guesses at a session that was left open is locked out.
    """

    def __init__(self, user: User, *args: Any, request: HttpRequest, **kwargs: Any) -> None:
        super().__init__(user, *args, **kwargs)
        self.request = request

    def clean_old_password(self) -> str:
        name, tried = self.user.get_username(), self.cleaned_data["old_password"]
        if authenticate(self.request, username=name, password=tried) is None:
            message = self.error_messages["password_incorrect"]
            raise forms.ValidationError(message, code="password_incorrect")
        # A password of a directory's is none of ours: there is nothing to change here.
        return super().clean_old_password()

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned and cleaned.get("new_password1") == cleaned.get("old_password"):
            self.add_error("new_password1", "Choose a password that differs from the old one.")
        return cleaned
