"""Keyed replacements: the same identifier gives the same one, and nobody without the key can guess.

HMAC-SHA256 (RFC 2104) throughout, cut to 128 bits for a UID (PS3.5 B.2) and to 80 for a pseudonym.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import date, timedelta

from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary

MAX_OFFSET_DAYS = 3650
PSEUDONYM_PREFIX = "CL"
_UID_BYTES = 16
_PSEUDONYM_BYTES = 10
_FILE_NAME_BYTES = 10


@dataclass(frozen=True)
class Patient:
    """Who stands for a patient. offset_days: in [-MAX_OFFSET_DAYS, -1], added to every date."""

    pseudonym: str
    offset_days: int

    def shift(self, day: date) -> date:
        """Raises OverflowError before the year 1."""
        return day + timedelta(days=self.offset_days)


@dataclass(frozen=True)
class Mapping:
    """key: 32 secret bytes. Equal keys give equal replacements, on any machine, at any time."""

    key: bytes = field(repr=False)

    def uid(self, uid: str) -> str:
        """Return the UID that stands for `uid`; one that a standard registered stays as it is."""
        if uid in UID_dictionary or not uid:
            return uid
        return f"2.25.{int.from_bytes(self._digest('uid', uid)[:_UID_BYTES], 'big')}"

    def patient(self, dataset: Dataset) -> Patient:
        """Return the stand-in for a data set's patient.

        One that names neither patient nor study stands for itself: were all such objects one
        patient, a date that is known of one would tell the dates of all.
        """
        identity = patient_identity(dataset)
        if not names_anybody(identity):
            identity = ("pixels", hashlib.sha256(_pixel_bytes(dataset)).hexdigest())
        drawn = self._digest("patient", *identity)
        offset = int.from_bytes(self._digest("offset", *identity)[:8], "big") % MAX_OFFSET_DAYS
        name = base64.b32encode(drawn[:_PSEUDONYM_BYTES]).decode("ascii")
        return Patient(PSEUDONYM_PREFIX + name, -1 - offset)

    def file_name(self, content: bytes) -> str:
        """Return what stands for a file's name, which may be a person's; the same in every run."""
        return self._mac(b"file name:" + content)[:_FILE_NAME_BYTES].hex()

    def seal(self, content: bytes) -> str:
        """Return a mark that only a holder of the key could have put on `content`."""
        return base64.urlsafe_b64encode(self._mac(b"seal:" + content)).decode("ascii")

    def _digest(self, *parts: str) -> bytes:
        # Lengths keep ("a", "bc") and ("ab", "c") apart.
        return self._mac(b"".join(b"%d:%s" % (len(raw), raw) for raw in map(_utf8, parts)))

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self.key, content, hashlib.sha256)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _pixel_bytes(dataset: Dataset) -> bytes:
    for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
        if isinstance(value := dataset.get(keyword), bytes):
            return value
    return b""


def patient_identity(dataset: Dataset) -> tuple[str, ...]:
    """Return what tells one patient from another: issuer and id, or name and birth date.

    Where a data set names neither, its study stands for the patient. An id of one issuer is another
    than the same id of none: two of one person are put together by hand, two persons that were
    mixed are never parted.
    """
    number = text_of(dataset, "PatientID")
    if number:
        return ("id", text_of(dataset, "IssuerOfPatientID").upper(), number)
    name = text_of(dataset, "PatientName")
    if name:
        return ("name", name.upper(), text_of(dataset, "PatientBirthDate"))
    return ("study", text_of(dataset, "StudyInstanceUID") or text_of(dataset, "SOPInstanceUID"))


def names_anybody(identity: tuple[str, ...]) -> bool:
    """Whether anything stands behind an identity's kind; a name may lack its birth date."""
    return any(identity[1:])


def text_of(dataset: Dataset, keyword: str) -> str:
    """Return an element's value as text; empty where there is none, or none that can be read."""
    try:
        return str(dataset.get(keyword) or "").strip(" \0")
    except Exception:  # noqa: BLE001 - pydicom quotes the value in what it raises
        return ""
