"""Tags: what an image is called, so that searches can ask for it. By people, and by the encoder."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from retrieval import access, audit
from retrieval.errors import AccessDenied
from retrieval.models import AutomaticTag, Image, Kind, Purpose, User
from retrieval.models.grant import Capability

MAX_TAGS: Final = 32
MAX_CHARS: Final = 64


def tag(image_id: UUID, tags: Sequence[str], *, actor: User, purpose: Purpose) -> None:
    """Replace an image's tags; the log says that, and how many, never which.

    For who may import there. Raises AccessDenied, on the log as well; ValueError as `require_fit`.
    """
    require_fit(tags)
    try:
        with access.acting_as(actor, purpose):
            image = access.find_image(
                image_id, actor=actor, purpose=purpose, capability=Capability.INGEST
            )
            Image.objects.filter(pk=image.pk, collection_id=image.collection_id).update(
                tags=list(tags)
            )
            audit.record_in_transaction(
                Kind.IMAGE_TAGGED, actor=actor, purpose=purpose, image=image.pk, tags=len(tags)
            )
    except AccessDenied:
        audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=purpose, image=image_id)
        raise


def automatic_tags(image: Image) -> tuple[str, ...]:
    """What the live encoder tags an image with (`retrieval.tag_words`), inside `acting_as`."""
    found = AutomaticTag.objects.filter(image=image, threshold__encoder__live=True)
    return tuple(
        found.order_by("threshold__word__word").values_list("threshold__word__word", flat=True)
    )


def require_fit(tags: Sequence[str]) -> None:
    """Raise ValueError for too many or too long ones, or such as hold a control character."""
    if len(tags) > MAX_TAGS or any(not 0 < len(each) <= MAX_CHARS for each in tags):
        raise ValueError(f"at most {MAX_TAGS} tags of at most {MAX_CHARS} characters")
    if not all(each.isprintable() for each in tags):
        raise ValueError("a tag is on one line and can be read")
