"""What is left of a report."""

import time

import pytest
from pydicom import DataElement

from workers.deidentify.dicom.words import Known, known_identifiers
from workers.deidentify.report import cleaned_report, vocabulary

NOTHING_KNOWN = Known(None)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("John Smith has a small effusion.", "has a small effusion"),
        ("JOHN SMITH HAS A SMALL EFFUSION.", "has a small effusion"),
        ("john smith has a small effusion", "has a small effusion"),
        ("Effusion in Small, Brown and White.", "effusion in and"),
        ("Kowalczyk was seen with Ærøskøbing and Öztürk.", "was seen with and"),
        ("Seen with Dr. Young on 12 May 2021, MRN: 4711-22.", "seen with on"),
        ("No fracture of L4; room 17B, called 555-123-4567.", "no fracture of room called"),
        ("Findings: Heart.\nImpression: No edema", "findings heart\nimpression no edema"),
        ("Mild edema of the\nleft lung on CT", "mild edema of the left lung on ct"),
        ("Befund: Kein Erguss, Herr Müller.", ""),
        ("\u202eJohn\u0000Smith\u200b ４７１１ ﬁne", "fine"),
    ],
)
def test_only_words_that_are_nobody_s_stay(text: str, left: str) -> None:
    assert cleaned_report(text, NOTHING_KNOWN) == left


def test_what_the_header_knows_goes_although_it_is_a_word(
    dicom_of_a_patient_named_small: Known,
) -> None:
    text = "Liver is small. SMALL, long lesion of the liver"

    assert "small" in cleaned_report(text, NOTHING_KNOWN)
    assert cleaned_report(text, dicom_of_a_patient_named_small) == "is\nlesion of the"


@pytest.fixture
def dicom_of_a_patient_named_small() -> Known:
    return known_identifiers([DataElement(0x00100010, "PN", "Small^Long^Liver")])


def test_the_commonest_names_are_no_words_of_a_report() -> None:
    names = "john mary james patricia robert linda smith jones garcia nguyen müller kim ali wong"

    assert not vocabulary() & set(names.split())
    assert len(vocabulary()) > 20_000


@pytest.mark.parametrize("piece", ["a-", "A\n", "a. ", "Ab: ", "1", "\n ", "x" * 64 + " "])
def test_the_longest_report_is_cleaned_in_seconds(piece: str) -> None:
    started = time.process_time()

    cleaned_report(piece * (65_536 // len(piece)), NOTHING_KNOWN)

    assert time.process_time() - started < 10
