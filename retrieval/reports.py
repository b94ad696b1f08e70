"""A picture's report on its way in: taken as it is, sealed like an original, and due to be read.

What is read of it, and by whom: `workers/reports.py`.
"""

from contextlib import closing
from typing import Final

from retrieval import access, keys, outbox, storage
from retrieval.errors import Reason, Rejected
from retrieval.models import Collection, Image, ImportBatch, Purpose, Report, Stage, State, User
from retrieval.models.grant import Capability
from retrieval.receive import READING_FAILS_WITH, Candidate, checked_name
from retrieval.storage import Form

MAX_BYTES: Final = 64 * 1024


def attach(
    image: Image | None, text: Candidate, batch: ImportBatch, *, actor: User, purpose: Purpose
) -> bool:
    """Make a text this picture's report, in the place of an earlier one. False: it is that already.

    image: None where the picture was turned away. Raises Rejected with the one reason why the text
    cannot be taken, AccessDenied where the right to ingest has ended, ServicesUnavailable where
    the store cannot be written.
    """
    if image is None:
        raise Rejected(Reason.REPORT_WITHOUT_PICTURE)
    checked_name(text.name)
    content = _content(text)
    content_hash = keys.content_hash(image.collection_id)
    content_hash.update(content)
    content_key = content_hash.digest()
    with access.acting_as(actor, purpose):
        access.require(actor, purpose, Capability.INGEST, image.collection_id)
        # Locked: whoever lets the image be found meanwhile sees the report, or is seen here.
        image = Image.objects.select_for_update(no_key=True).get(pk=image.pk)
        known = Report.objects.filter(image=image).first()
        if known is not None and bytes(known.content_key) == content_key:
            return False
        if known is not None and known.batch_id == batch.pk:
            # Equal pictures are one: nobody can tell which of their texts is right.
            raise Rejected(Reason.AMBIGUOUS_REPORT)
        Report.objects.update_or_create(
            image=image,
            defaults={
                "collection_id": image.collection_id,
                "batch": batch,
                "content_key": content_key,
                "rules_digest": "",
            },
        )
        Collection.objects.filter(pk=image.collection_id, has_reports=False).update(
            has_reports=True
        )
        storage.write_bytes(image, Form.REPORT_ORIGINAL, content)
        if image.state == State.INDEXED:
            outbox.add_anew(image, Stage.REPORT)
    return True


def _content(text: Candidate) -> bytes:
    """UTF-8 of at most MAX_BYTES that says something. Raises Rejected."""
    try:
        with closing(text.open()) as file:
            content = file.read(MAX_BYTES + 1)
    except READING_FAILS_WITH as error:
        raise Rejected(Reason.UNREADABLE_FILE) from error
    if len(content) > MAX_BYTES:
        raise Rejected(Reason.FILE_TOO_LARGE)
    try:
        said = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise Rejected(Reason.NOT_A_TEXT) from error
    if not said:
        raise Rejected(Reason.EMPTY_FILE)
    if "\0" in said:
        raise Rejected(Reason.NOT_A_TEXT)
    return said.encode()
