"""Why a search has no answer, in one sentence: on the page and on the command line."""

from typing import Final

from retrieval.errors import (
    AccessDenied,
    EncoderUnavailable,
    NeedsReview,
    NoTextTower,
    Rejected,
    SearchTooSlow,
)

REFUSALS: Final[dict[type[Exception], tuple[str, int]]] = {
    AccessDenied: ("There is nothing you may search for this purpose.", 403),
    Rejected: ("The example image cannot be used: {reason}.", 422),
    NeedsReview: ("The example image could not be de-identified: {reason}.", 422),
    NoTextTower: ("The encoder in use reads images only: search with an image.", 422),
    EncoderUnavailable: ("No encoder answers right now. Please try again.", 503),
    SearchTooSlow: ("The search took too long: choose fewer collections, or narrow it down.", 503),
    ValueError: ("What is wanted and what is not wanted cancel each other out.", 400),
}
"""A sentence for each reason, and the status it goes out with."""
GONE: Final = "An image you search by is no longer there, or not for this purpose."


def why(error: Exception, *, names_an_image: bool) -> tuple[str, int] | None:
    """The sentence and its status; None for what is no answer to who searches.

    names_an_image: the query has a stored image in it.
    """
    if isinstance(error, AccessDenied) and names_an_image:
        return GONE, 403
    for refusal, (sentence, status) in REFUSALS.items():
        if isinstance(error, refusal):
            return sentence.format(reason=_in_words(error)), status
    return None


def _in_words(error: Exception) -> str:
    reason = error.reason if isinstance(error, (Rejected, NeedsReview)) else ""
    return reason.replace("_", " ")
