import re
from typing import Any

from django import forms
from django.contrib.auth.forms import PasswordChangeForm
from django.http import QueryDict

from retrieval.break_glass import LEAST_REASON_CHARS, MAX_REASON_CHARS
from retrieval.models import BoxKind, Collection, Purpose, RemovalReason
from retrieval.review import Drawn

MAX_WORDS = 500


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
    like = forms.UUIDField(required=False, widget=forms.HiddenInput)
    collections = forms.TypedMultipleChoiceField(
        label="Collections", required=False, coerce=int, widget=forms.CheckboxSelectMultiple
    )

    def __init__(self, *args: Any, readable: list[Collection], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choices = [(c.pk, c.name) for c in readable]
        field = self.fields["collections"]
        assert isinstance(field, forms.TypedMultipleChoiceField)  # noqa: S101  declared above
        field.choices = choices

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        wanted = (cleaned.get("words"), cleaned.get("image"), cleaned.get("like"))
        if not self.errors and not any(wanted):
            raise forms.ValidationError("Type some words or add an example image.")
        return cleaned


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
    """A new password that is new."""

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned and cleaned.get("new_password1") == cleaned.get("old_password"):
            self.add_error("new_password1", "Choose a password that differs from the old one.")
        return cleaned
