"""Objects without a picture leave cleaned if their kind is known, and not at all otherwise."""

import pytest
from pydicom.uid import UID

from retrieval.errors import Reason, Rejected
from tests.decode import samples
from workers.deidentify.dicom import header
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.dicom.records import cleaned_record

MAPPING = Mapping(b"k" * 32)
STORAGE = "1.2.840.10008.5.1.4.1.1."


def report(sop_class: str) -> bytes:
    dataset = header.read(samples.dicom("reportsi.dcm"))
    dataset.SOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    return header.write(dataset)


@pytest.mark.parametrize("name", ["reportsi.dcm", "rtstruct.dcm", "rtplan.dcm", "test-SR.dcm"])
def test_reports_and_plans_leave_without_their_patient(name: str) -> None:
    source = header.read(samples.dicom(name))
    content = cleaned_record(samples.dicom(name), MAPPING).content

    assert content is not None
    after = header.read(content)
    assert after.SOPClassUID == source.SOPClassUID
    assert after.SOPInstanceUID == MAPPING.uid(source.SOPInstanceUID)
    assert str(source.PatientName) not in str(after)
    assert header.is_sealed(after, MAPPING)
    assert cleaned_record(content, MAPPING).content == content


@pytest.mark.parametrize(
    "family", ["88.11", "88.59", "88.67", "11.1", "9.1.1", "481.3", "481.5", "66.1", "67"]
)
def test_known_kinds_are_released(family: str) -> None:
    assert cleaned_record(report(STORAGE + family), MAPPING).content


@pytest.mark.parametrize(
    "sop_class",
    [
        *(STORAGE + family for family in ("104.1", "104.2", "104.3", "66", "66.5", "9.4.1", "2")),
        "1.2.840.10008.1.3.10",
        "1.2.826.0.1.3680043.1",
    ],
)
def test_documents_voices_surfaces_and_unknown_kinds_are_rejected(sop_class: str) -> None:
    with pytest.raises(Rejected) as refused:
        cleaned_record(report(sop_class), MAPPING)
    assert refused.value.reason is Reason.NO_PIXELS


@pytest.mark.parametrize(
    ("keyword", "representation", "value"),
    [
        ("EncapsulatedDocument", "OB", b"%PDF"),
        ("PixelData", "OB", b"%PDF"),
        ("FloatPixelData", "OF", b"%PDF"),
        ("DoubleFloatPixelData", "OD", b"%PDF%PDF"),
        ("Rows", "US", 16),
    ],
)
def test_a_report_that_carries_a_document_or_picture_is_rejected(
    keyword: str, representation: str, value: object
) -> None:
    dataset = header.read(samples.dicom("reportsi.dcm"))
    dataset.add_new(keyword, representation, value)

    with pytest.raises(Rejected):
        cleaned_record(header.write(dataset), MAPPING)
