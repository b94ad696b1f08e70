"""Pictures of one patient share one subject, and nothing tells that another collection has them."""

from io import BytesIO

import numpy as np
import pytest

from retrieval import access, receive
from retrieval.models import Collection, Image, Purpose, Stage, Subject, Work
from tests import database
from tests.decode import samples
from tests.factories import make_collection, operator
from workers import tasks

RAMP = np.tile(np.linspace(0, 4095, 64).astype(np.uint16), (64, 1))
pytestmark = pytest.mark.usefixtures("db")


def imported(collection: Collection, **header: object) -> Image:
    """One picture, received and de-identified as the worker does it."""
    content = samples.grey_dicom(RAMP, **header)
    batch = receive.start_batch(collection, actor=operator(), purpose=Purpose.ADMINISTRATION)
    image, _ = receive.receive(
        receive.Candidate("Jane Roe.dcm", lambda: BytesIO(content)),
        batch,
        actor=operator(),
        purpose=Purpose.ADMINISTRATION,
    )
    with database.role("worker"):
        tasks.deidentify(Work.objects.get(stage=Stage.DEIDENTIFY, image=image).pk)
        with access.processing(collection.pk):
            return Image.objects.get(pk=image.pk)


def test_pictures_of_one_patient_share_one_subject() -> None:
    wards = make_collection()

    first = imported(wards, PatientID="HX-1", StudyDate="20200101", Modality="CT")
    second = imported(wards, PatientID="HX-1", StudyDate="20200111", Modality="MR")
    other = imported(wards, PatientID="HX-2", StudyDate="20200101")
    elsewhere = imported(wards, PatientID="HX-1", IssuerOfPatientID="another hospital")

    assert first.subject_id == second.subject_id
    assert len({first.subject_id, other.subject_id, elsewhere.subject_id}) == 3
    assert (first.modality, second.modality) == ("CT", "MR")


def test_a_name_without_id_or_birth_date_is_a_subject() -> None:
    wards = make_collection()

    named = imported(wards, PatientName="Roe^Jane", StudyInstanceUID="1.2.3")
    again = imported(wards, PatientName="ROE^JANE", StudyInstanceUID="1.2.4")

    assert named.subject_id is not None
    assert named.subject_id == again.subject_id


def test_dates_are_kept_apart_by_the_same_days_and_never_as_they_were() -> None:
    wards = make_collection()

    first = imported(wards, PatientID="HX-1", AcquisitionDate="20200101")
    second = imported(wards, PatientID="HX-1", AcquisitionDate="20200111")

    assert first.taken_on is not None
    assert second.taken_on is not None
    assert first.taken_on.year < 2020
    assert (second.taken_on - first.taken_on).days == 10


def test_one_patient_is_two_subjects_in_two_collections() -> None:
    one = imported(make_collection(), PatientID="HX-1")
    two = imported(make_collection(), PatientID="HX-1")

    pseudonyms = set()
    for image in (one, two):
        with database.role("worker"), access.processing(image.collection_id):
            pseudonyms.add(Subject.objects.get(image=image).pseudonym)
    assert len(pseudonyms) == 2
    assert not any("HX" in pseudonym for pseudonym in pseudonyms)
