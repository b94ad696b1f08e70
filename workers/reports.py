"""A report on its way: cleaned first, then read by the encoders of reports, and by nobody else."""

from collections.abc import Sequence

import numpy as np

from retrieval import access, index, outbox, storage
from retrieval.errors import EncoderUnavailable
from retrieval.models import EncoderVersion, Image, Reads, Report, State, Work
from retrieval.storage import Form
from workers.decode.dicom import MEDIA_TYPE as DICOM
from workers.deidentify.dicom import header
from workers.deidentify.dicom.words import Known, all_elements, known_identifiers
from workers.deidentify.report import cleaned_report, rules_digest
from workers.encode.encoder import Vectors
from workers.stages import encoder_of


def forget_earlier(work_id: int) -> None:
    """Where a new text is due, drop what an earlier one is found by: whatever becomes of the new
    one, nobody finds the picture by words that were taken back."""
    work = Work.objects.filter(pk=work_id).first()
    if work is None:
        return
    with access.processing(work.collection_id):
        # Locked, as where vectors are written: those of the new text stay.
        image = Image.objects.select_for_update(no_key=True).get(pk=work.image_id)
        if Report.objects.filter(image=image, rules_digest="").update(passages=0):
            index.forget_report(image)


def read(work: Work) -> None:
    """Clean an indexed image's report and give it a vector for each passage and encoder.

    What fails leaves the report unread and the image as it is. Images that are not searchable
    wait: `outbox.settle` makes this due again. A text that stays as it was is shown to those
    encoders only that have not seen it.
    """
    with access.processing(work.collection_id):
        image = Image.objects.get(pk=work.image_id)
        report = Report.objects.filter(image=image).first()
    if report is None or image.state != State.INDEXED:
        with outbox.settling(work):
            return
    text = _cleaned(image, report)
    live = _live_encoder()
    encoders = [
        encoder
        for encoder in EncoderVersion.objects.filter(reads=Reads.REPORTS, retired_at=None)
        if not _is_as_cleaned(report) or _lacks(encoder, image)
    ]
    pieces = _passages(text)
    vectors = [_vectors(encoder, pieces) for encoder in encoders]
    with outbox.settling(work) as image:
        if image.state != State.INDEXED:
            return
        index.hold_live(live)
        storage.write_bytes(image, Form.REPORT, text.encode())
        Report.objects.filter(image=image).update(rules_digest=rules_digest(), passages=len(pieces))
        for encoder, rows in zip(encoders, vectors, strict=True):
            index.store_report(image, rows, encoder=encoder)


def _cleaned(image: Image, report: Report) -> str:
    """Kept from an earlier time where the rules are the same. The picture's header tells names."""
    if _is_as_cleaned(report):
        return storage.read(image, Form.REPORT).decode()
    known = Known(None)
    if image.media_type == DICOM:
        dataset = header.read(storage.read(image, Form.ORIGINAL))
        known = known_identifiers(all_elements(dataset))
    return cleaned_report(storage.read(image, Form.REPORT_ORIGINAL).decode(), known)


def _is_as_cleaned(report: Report) -> bool:
    """Whether its cleaned text is kept, of these words and by today's rules."""
    return report.rules_digest == rules_digest()


def _lacks(encoder: EncoderVersion, image: Image) -> bool:
    with access.processing(image.collection_id):
        lacking = index.without_vector(encoder, image.collection_id)
        return lacking.filter(pk=image.pk).exists()


def _passages(text: str) -> list[str]:
    # torch stays out of workers that boot without encoding.
    from workers.encode.reports import passages  # noqa: PLC0415

    return passages(text)


def _vectors(encoder: EncoderVersion, pieces: Sequence[str]) -> Vectors:
    return np.asarray(encoder_of(encoder).encode_texts(pieces), np.float32)


def _live_encoder() -> EncoderVersion:
    """Registered with the first report: who has none keeps no index of them."""
    from workers.encode.reports import ReportEncoder  # noqa: PLC0415  as above

    if index.live_report_encoder() is None:
        index.register_encoder(
            name=ReportEncoder.name,
            digest=ReportEncoder.digest,
            dimensions=ReportEncoder.dimensions,
            licence=ReportEncoder.licence,
            reads=Reads.REPORTS,
        )
    live = index.live_report_encoder()
    if live is None:
        raise EncoderUnavailable("no encoder of reports is live")
    return live
