from typing import Any

from django import forms
from django.contrib.auth.forms import PasswordChangeForm

from retrieval.models import Collection, Purpose

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


class OwnPasswordForm(PasswordChangeForm):
    """A new password that is new."""

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if cleaned and cleaned.get("new_password1") == cleaned.get("old_password"):
            self.add_error("new_password1", "Choose a password that differs from the old one.")
        return cleaned
