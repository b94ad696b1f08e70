"""The way of a look at one image: authorise, read what is de-identified, record, hand out."""

from dataclasses import dataclass
from uuid import UUID

from retrieval import access, audit, break_glass, queue, storage, tags
from retrieval.errors import AccessDenied, Reason, Rejected
from retrieval.models import Image, Kind, Purpose, State, User
from retrieval.models.grant import Capability
from retrieval.storage import Form

SHOWN_FORMS = (Form.PREVIEW, Form.THUMBNAIL)
SHOW_ORIGINAL = "show_original"
ORIGINAL_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Seen:
    """An image as its page shows it. `source` only where the actor may see names.

    `automatic_tags`: what the live encoder tags it with; people's tags are the image's own.
    """

    image: Image
    source: str | None
    audit_number: int
    automatic_tags: tuple[str, ...] = ()


def look_at(image_id: UUID, *, actor: User, purpose: Purpose) -> Seen:
    """What is known of one image. The look is on the log before this returns.

    Raises AccessDenied, on the log as well; AuditUnavailable.
    """
    image = _authorised(image_id, actor, purpose)
    named = access.collections_where(actor, purpose, Capability.SEE_SOURCE_NAMES)
    source = storage.source_name(image) if image.collection in named else None
    with access.acting_as(actor, purpose):
        found = tags.automatic_tags(image)
    number = _record_look(image, "page", actor, purpose)
    return Seen(image, source, number, found)


def look_at_status(image_id: UUID, *, actor: User, purpose: Purpose) -> Seen:
    """Where an image is on its way: for who may hand in images there, or see it, once indexed.

    The look is on the log before this returns. Raises AccessDenied, on the log; AuditUnavailable.
    """
    ingested = access.collections_where(actor, purpose, Capability.INGEST)
    try:
        with access.acting_as(actor, purpose):
            image = access.find_image(image_id, actor=actor, purpose=purpose)
            if image.collection not in ingested and not is_shown(image, may_review=False):
                raise AccessDenied(f"user {actor.pk} has no such image")  # noqa: TRY301  on the log
            found = tags.automatic_tags(image)
    except AccessDenied:
        audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=purpose, image=image_id)
        raise
    named = access.collections_where(actor, purpose, Capability.SEE_SOURCE_NAMES)
    source = storage.source_name(image) if image.collection in named else None
    return Seen(image, source, _record_look(image, "status", actor, purpose), found)


def picture(image_id: UUID, form: Form, *, actor: User, purpose: Purpose) -> bytes:
    """The de-identified JPEG. The look is on the log before this returns.

    Raises AccessDenied, on the log as well; AuditUnavailable; StorageCorrupt.
    """
    image = _authorised_form(image_id, form, actor, purpose)
    content = storage.read(image, form)
    _record_look(image, form, actor, purpose)
    return content


def recorded_picture(image_id: UUID, form: Form, *, actor: User, purpose: Purpose) -> bytes:
    """The de-identified JPEG of an image whose showing is on the log already, as a search's
    or a list's. The right to see it is looked up anew."""
    return storage.read(_authorised_form(image_id, form, actor, purpose), form)


def original(image_id: UUID, *, actor: User, purpose: Purpose) -> bytes:
    """The original's pixels as a JPEG, for who broke the glass for them; nothing else of the file.

    A worker decodes it in its sandbox and asks the database again. The look is on the log before
    this returns. Raises AccessDenied, on the log as well; Rejected where it cannot be decoded;
    ServicesUnavailable; AuditUnavailable.
    """
    image = _authorised(image_id, actor, purpose)
    try:
        break_glass.require_originals(actor, purpose, image.collection_id)
    except AccessDenied:
        audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=purpose, image=image_id)
        raise
    arguments = (actor.pk, image.collection_id, str(image.pk))
    reason, _, content = queue.ask(
        SHOW_ORIGINAL, arguments, timeout_s=ORIGINAL_TIMEOUT_S
    ).partition(b"\n")
    if reason:
        raise Rejected(Reason(reason.decode()))
    _record_look(image, "original", actor, purpose)
    return content


def _record_look(image: Image, form: str, actor: User, purpose: Purpose) -> int:
    return audit.record(
        Kind.IMAGE_VIEWED,
        actor=actor,
        purpose=purpose,
        image=image.pk,
        subject=image.subject_id,
        form=form,
    )


def _authorised_form(image_id: UUID, form: Form, actor: User, purpose: Purpose) -> Image:
    if form not in SHOWN_FORMS:
        raise AccessDenied(f"the {form} is not shown")
    return _authorised(image_id, actor, purpose)


def is_shown(image: Image, *, may_review: bool) -> bool:
    """Whether its pixels may be seen: indexed ones, and those in review by who reviews them."""
    return image.state == State.INDEXED or (image.state == State.REVIEW and may_review)


def _authorised(image_id: UUID, actor: User, purpose: Purpose) -> Image:
    try:
        with access.acting_as(actor, purpose):
            return _find_shown(image_id, actor, purpose)
    except AccessDenied:
        audit.record(Kind.IMAGE_DENIED, actor=actor, purpose=purpose, image=image_id)
        raise


def _find_shown(image_id: UUID, actor: User, purpose: Purpose) -> Image:
    image = access.find_image(image_id, actor=actor, purpose=purpose)
    reviewed = access.collections_where(actor, purpose, Capability.REVIEW)
    if not is_shown(image, may_review=image.collection in reviewed):
        raise AccessDenied(f"user {actor.pk} has no such image")
    return image
