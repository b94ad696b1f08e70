"""Who a DICOM image is of, and when it was made, as far as the appliance may know."""

import re
from dataclasses import dataclass
from datetime import date

from pydicom import Dataset

from retrieval import keys
from workers.deidentify.dicom import header
from workers.deidentify.dicom.mapping import Mapping, names_anybody, patient_identity, text_of

# The first of these that holds a date says when the picture was made.
_TAKEN = ("AcquisitionDate", "AcquisitionDateTime", "ContentDate", "SeriesDate", "StudyDate")
_CODE = re.compile(r"[A-Z0-9]{1,16}")
_DATE = re.compile(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)")


@dataclass(frozen=True)
class Origin:
    """pseudonym: of the patient, in one collection only; None where the file names nobody.

    modality: (0008,0060) if it is a code of at most 16 letters and digits, else empty.
    taken_on: moved by the patient's days, as in every object of that patient that leaves.
    study: keyed hash of the study's UID, in one collection only; empty where there is none.
    """

    pseudonym: str | None
    modality: str
    taken_on: date | None
    study: str


def origin_of(content: bytes, *, collection_id: int) -> Origin:
    """Read a DICOM file that the sandbox has decoded. Raises Rejected DECODE_FAILED.

    The pseudonym is keyed per collection: that a patient is in another one as well shows nowhere.
    """
    dataset = header.read(content)
    identity = patient_identity(dataset)
    named = "\0".join(identity) if names_anybody(identity) else None
    pseudonym = named and keys.keyed_hash(named, use=f"subjects of collection {collection_id}")
    modality = text_of(dataset, "Modality").strip().upper()
    study = text_of(dataset, "StudyInstanceUID").strip()
    return Origin(
        pseudonym or None,
        modality if _CODE.fullmatch(modality) else "",
        _taken_on(dataset, Mapping(keys.dicom_key())),
        study and keys.keyed_hash(study, use=f"studies of collection {collection_id}"),
    )


def _taken_on(dataset: Dataset, mapping: Mapping) -> date | None:
    for keyword in _TAKEN:
        parts = _DATE.match(text_of(dataset, keyword).strip())
        if parts:
            try:
                day = date(int(parts[1]), int(parts[2]), int(parts[3]))
                return mapping.patient(dataset).shift(day)
            except (ValueError, OverflowError):
                continue
    return None
