from typing import TYPE_CHECKING, Any

from django import forms

from retrieval.models import Purpose

if TYPE_CHECKING:
    from django.forms import CheckboxSelectMultiple
else:
    from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget as CheckboxSelectMultiple


class PurposesField(forms.MultipleChoiceField):
    """Purposes of use, each with its code, to be ticked."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(
            choices=[(p.value, f"{p.label} ({p.value})") for p in Purpose],
            widget=CheckboxSelectMultiple(),
            **kwargs,
        )


def in_words(purposes: list[str]) -> str:
    return ", ".join(Purpose(p).label for p in purposes)
