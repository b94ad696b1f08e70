"""Who counts as one patient, and what the key has to do with it."""

import pytest
from pydicom import Dataset

from workers.deidentify.dicom.mapping import MAX_OFFSET_DAYS, Mapping

MAPPING = Mapping(b"k" * 32)
OTHER_KEY = Mapping(b"l" * 32)


def of(**values: str) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ({"PatientID": "1"}, {"PatientID": "1", "PatientName": "Quux"}, True),
        ({"PatientID": "1"}, {"PatientID": "2"}, False),
        ({"PatientID": " 1 "}, {"PatientID": "1"}, True),
        ({"PatientID": "1", "StudyInstanceUID": "1.2"}, {"PatientID": "1"}, True),
        ({"PatientName": "Quux^X"}, {"PatientName": "QUUX^X"}, True),
        ({"PatientName": "Quux^X"}, {"PatientName": "Quux^Y"}, False),
        (
            {"PatientName": "Quux", "PatientBirthDate": "19700101"},
            {"PatientName": "Quux", "PatientBirthDate": "19700102"},
            False,
        ),
        ({"PatientID": "Quux"}, {"PatientName": "Quux"}, False),
        ({"StudyInstanceUID": "1.2"}, {"StudyInstanceUID": "1.3"}, False),
        (
            {"StudyInstanceUID": "1.2", "SOPInstanceUID": "1"},
            {"StudyInstanceUID": "1.2", "SOPInstanceUID": "2"},
            True,
        ),
        ({"SOPInstanceUID": "1.2"}, {"SOPInstanceUID": "1.3"}, False),
    ],
)
def test_one_patient_has_one_stand_in(
    one: dict[str, str], other: dict[str, str], is_same: bool
) -> None:
    assert (MAPPING.patient(of(**one)) == MAPPING.patient(of(**other))) is is_same


def test_a_name_without_a_birth_date_is_one_patient_s_whatever_the_picture() -> None:
    one, other = of(PatientName="Quux^X"), of(PatientName="Quux^X")
    one.PixelData, other.PixelData = b"one", b"other"

    assert MAPPING.patient(one) == MAPPING.patient(other)


def test_without_the_key_nothing_can_be_guessed() -> None:
    somebody = of(PatientID="1")
    one, other = MAPPING.patient(somebody), OTHER_KEY.patient(somebody)

    assert one.pseudonym != other.pseudonym
    assert one.offset_days != other.offset_days
    assert MAPPING.uid("1.2.3") != OTHER_KEY.uid("1.2.3")
    assert MAPPING.file_name(b"1") != OTHER_KEY.file_name(b"1")
    assert MAPPING.seal(b"1") != OTHER_KEY.seal(b"1")
    assert "kkkk" not in repr(MAPPING)


def test_every_patient_s_dates_move_back_and_not_all_by_the_same_days() -> None:
    days = {MAPPING.patient(of(PatientID=str(number))).offset_days for number in range(2000)}

    assert -MAX_OFFSET_DAYS <= min(days) < -MAX_OFFSET_DAYS * 0.99
    assert -MAX_OFFSET_DAYS * 0.01 < max(days) <= -1
    assert len(days) > 1500


def test_parts_of_an_identity_do_not_run_together() -> None:
    one = of(PatientID="bc", IssuerOfPatientID="a")
    other = of(PatientID="c", IssuerOfPatientID="ab")

    assert MAPPING.patient(one) != MAPPING.patient(other)
    assert MAPPING._digest("a", "bc") != MAPPING._digest("ab", "c")


def test_a_uid_of_the_standard_stays_and_any_other_is_a_valid_one_of_nobody() -> None:
    assert MAPPING.uid("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"
    mapped = {MAPPING.uid(f"1.2.826.0.1.{number}") for number in range(100)}

    assert len(mapped) == 100
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in mapped)
