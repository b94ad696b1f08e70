"""Apply the table to a data set: PS3.15 Annex E, nested sequences included.

A new data set is written element by element: what no rule puts into it is not in it. The source
has been read by the sandbox before (workers/decode), which bounds its size and its parsing; the
number and depth of its elements are bounded here. Nothing but Python touches its bytes.
"""

import hashlib
import io
import logging
import re
import warnings
from collections import Counter
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from retrieval.errors import Reason, Rejected
from workers.deidentify.dicom.colours import SRGB_PROFILE
from workers.deidentify.dicom.mapping import Mapping, Patient
from workers.deidentify.dicom.table import (
    BYTES,
    NUMBERS,
    SOURCE,
    TEXT,
    Action,
    action_for,
    is_safe_private,
)
from workers.deidentify.dicom.words import GONE, Known, all_elements, known_identifiers

# What pydicom warns of, it quotes: values of the header would stand in our logs.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")

MAX_ELEMENTS = 200_000
MAX_DEPTH = 16
# Of free text in one object: some seconds of looking for names.
MAX_TEXT_CHARS = 500_000

METHOD = f"Cloister, {SOURCE} Annex E"
_IMPLEMENTATION = "2.25.194170316428834577962301846217745302219"
# CID 7050 (PS3.16): what was done, by code.
_PROFILE_CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113103": "Clean Graphics Option",
    "113104": "Clean Structured Content Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113111": "Retain Safe Private Option",
}
_PIXEL_CODES = {
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
}

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_PIXELS = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData"})
_DATE = re.compile(r"(\d{4})[.\-/]?(\d\d)[.\-/]?(\d\d)")
_TIME = re.compile(r"\d\d(?::?\d\d(?::?\d\d(?:\.\d{1,6})?)?)?")
_DATE_TIME = re.compile(r"(\d{8})((?:\d\d){0,3}(?:\.\d{1,6})?)([+-]\d{4})?")
_DAY_CHARS = len("YYYYMMDD")
_SHORT_TEXT = {"TimezoneOffsetFromUTC": re.compile(r"[+-]\d{4}")}
_DUMMIES: dict[str, Any] = {
    "AS": "000Y",
    "UR": "https://removed.invalid",
    **dict.fromkeys(("DS", "IS", "FD", "FL", "SL", "SS", "SV", "UL", "US", "UV"), 0),
    **dict.fromkeys(BYTES, b"\0\0"),
}


@dataclass
class _Walk:
    """What is the same for every element of one object."""

    mapping: Mapping
    patient: Patient
    known: Known
    is_big_endian: bool
    word_bytes: int
    counts: Counter[Action] = field(default_factory=Counter)
    text_chars: int = 0


def deidentified_header(
    dataset: Dataset, mapping: Mapping, *, pixels_cleaned: bool
) -> tuple[Dataset, dict[Action, int]]:
    """Return a de-identified copy of `dataset`, and how often each action was done.

    Pixel values are taken over as they are, in the encoding they have; pixels_cleaned says whether
    the caller covers faces and writing in every frame. What carries our unbroken seal comes back
    unchanged but for its file meta information. Raises Rejected: NO_PIXELS for an encapsulated
    document, whose content no rule can clean; DECODE_FAILED beyond MAX_ELEMENTS, MAX_DEPTH or
    MAX_TEXT_CHARS.
    """
    if is_sealed(dataset, mapping):
        sealed = Dataset({tag: dataset[tag] for tag in dataset.keys()})  # noqa: SIM118
        _add_file_meta(sealed, dataset)
        return sealed, {}
    if "EncapsulatedDocument" in dataset and "Rows" not in dataset:
        raise Rejected(Reason.NO_PIXELS)
    _check_bounds(dataset)
    patient = mapping.patient(dataset)
    known = known_identifiers(all_elements(dataset))
    is_big = dataset.original_encoding[1] is False
    word_bytes = 4 if _integer(dataset, "BitsAllocated") == 32 else 2  # noqa: PLR2004
    walk = _Walk(mapping, patient, known, is_big, word_bytes)
    cleaned = _cleaned(dataset, walk, depth=0)
    _declare(cleaned, patient, mapping, pixels_cleaned=pixels_cleaned)
    _add_file_meta(cleaned, dataset)
    return cleaned, dict(sorted(walk.counts.items()))


def seal(dataset: Dataset, mapping: Mapping) -> None:
    """Mark a finished data set as ours; any later change breaks the mark."""
    dataset.DeidentificationMethod = [METHOD, mapping.seal(_content(dataset))]


def is_sealed(dataset: Dataset, mapping: Mapping) -> bool:
    """Whether `dataset` came from us, with this key, and nothing in it was changed since."""
    method = _value(dataset, "DeidentificationMethod")
    if not isinstance(method, MultiValue) or list(method[:1]) != [METHOD]:
        return False
    return list(method[1:]) == [mapping.seal(_content(dataset))]


def read(content: bytes) -> Dataset:
    """Parse a file that the sandbox has parsed before. Raises Rejected DECODE_FAILED."""
    try:
        return dcmread(io.BytesIO(content), force=True)
    except Exception as exc:
        raise Rejected(Reason.DECODE_FAILED) from exc


def write(dataset: Dataset) -> bytes:
    """Return a PS3.10 file with an empty preamble and our own file meta information."""
    out = io.BytesIO()
    dataset.preamble = b"\0" * 128
    dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def _content(dataset: Dataset) -> bytes:
    """Return all that a seal covers: every element but the one it is written in."""
    bare = Dataset({tag: dataset[tag] for tag in dataset.keys()})  # noqa: SIM118
    bare.pop("DeidentificationMethod", None)
    out = io.BytesIO()
    dcmwrite(out, bare, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return out.getvalue()


def _check_bounds(dataset: Dataset) -> None:
    """Raise Rejected for a data set that would take more than its share of time or of the stack."""
    waiting, elements = [(dataset, 0)], 0
    while waiting:
        current, depth = waiting.pop()
        elements += len(current)
        if depth > MAX_DEPTH or elements > MAX_ELEMENTS:
            raise Rejected(Reason.DECODE_FAILED)
        for tag in current.keys():  # noqa: SIM118
            element = _element(current, tag)
            if element is not None and element.VR == "SQ":
                waiting.extend((item, depth + 1) for item in element.value or ())


def _integer(dataset: Dataset, keyword: str) -> int | None:
    value = _value(dataset, keyword)
    return value if isinstance(value, int) else None


def _value(dataset: Dataset, keyword: str) -> Any:
    """Return an element's value; None where there is none, or none that can be read."""
    element = _element(dataset, Tag(keyword)) if keyword in dataset else None
    return None if element is None else element.value


def _element(dataset: Dataset, tag: BaseTag) -> DataElement | None:
    """Return an element, or None if its value breaks the rules of its representation."""
    try:
        return dataset[tag]
    except Exception:  # noqa: BLE001 - whatever it breaks, it cannot be cleaned
        return None


def _cleaned(dataset: Dataset, walk: _Walk, depth: int) -> Dataset:
    """Return a data set or an item with what the table leaves of each element."""
    result = Dataset()
    for tag in sorted(dataset.keys()):
        element = _element(dataset, tag)
        kept, action = None, Action.REMOVE
        if element is None or tag == 0x00080005:  # noqa: PLR2004 - Specific Character Set
            pass
        elif tag.is_private:
            kept, action = _private(dataset, element, result)
        elif depth and element.keyword in _PIXELS:
            pass  # an icon, or a picture within a report
        else:
            action = action_for(tag, _representation(element))
            kept = _treated(element, action, walk, depth)
            if kept is None:
                action = Action.REMOVE
        if tag.is_private and tag.is_private_creator:
            continue
        walk.counts[action] += 1
        if kept is not None:
            result.add(kept)
    if depth == 0:
        result.SpecificCharacterSet = "ISO_IR 192"
    _agree_on_colours(result)
    return result


def _agree_on_colours(item: Dataset) -> None:
    """Let nothing beside our colour profile speak of other colours (PS3.3 C.11.15.1.2)."""
    if "ICCProfile" not in item:
        return
    if str(item.get("PhotometricInterpretation", "")).startswith("MONOCHROME"):
        del item.ICCProfile  # it is for red, green and blue
        item.pop("ColorSpace", None)
    elif "ColorSpace" in item:
        item.ColorSpace = "SRGB"


def _representation(element: DataElement) -> str:
    """Return the value representation the dictionary has for an element: a file may lie."""
    if not dictionary_has_tag(element.tag):
        return str(element.VR)
    known, given = dictionary_VR(element.tag), str(element.VR)
    return given if given in known.split(" or ") or {known, given} <= TEXT else str(known)


def _private(
    dataset: Dataset, element: DataElement, result: Dataset
) -> tuple[DataElement | None, Action]:
    """Keep a private element that is known to hold nothing but numbers."""
    creator = _element(dataset, BaseTag(element.tag.group << 16 | element.tag.element >> 8))
    name = str(creator.value).strip() if creator is not None else ""
    if not is_safe_private(element.tag, name) or not _is_numeric(element):
        return None, Action.REMOVE
    result.add(DataElement(creator.tag, "LO", name))  # type: ignore[union-attr]
    return element, Action.KEEP


def _treated(  # noqa: PLR0911 - one return for each action
    element: DataElement, action: Action, walk: _Walk, depth: int
) -> DataElement | None:
    """Return the element as it goes on, None if it does not."""
    tag, representation = element.tag, _representation(element)
    if action is Action.REMOVE:
        return None
    if action is Action.EMPTY:
        return DataElement(
            tag, representation.split(" ")[0], Sequence() if representation == "SQ" else None
        )
    if action is Action.MAP_PATIENT:
        return DataElement(tag, representation, walk.patient.pseudonym)
    if action is Action.REPLACE:
        return _replaced(element, representation, walk, depth)
    if representation == "SQ":
        items = element.value if element.VR == "SQ" else ()
        return DataElement(tag, "SQ", Sequence([_cleaned(i, walk, depth + 1) for i in items or ()]))
    if action is Action.MAP_UID:
        return _with(element, "UI", [walk.mapping.uid(uid) for uid in _texts(element)])
    if action is Action.SHIFT:
        shifted = [_shifted(text, representation, walk.patient) for text in _texts(element)]
        return _with(element, representation, [text for text in shifted if text is not None])
    if action is Action.CLEAN:
        return _cleaned_text(element, representation, walk)
    return _kept(element, representation, walk)


def _replaced(
    element: DataElement, representation: str, walk: _Walk, depth: int
) -> DataElement | None:
    """Return the element with a dummy of its own kind (action D)."""
    if representation == "UI":
        return _with(element, "UI", [walk.mapping.uid(uid) for uid in _texts(element)])
    if representation == "SQ":
        items = element.value if element.VR == "SQ" else ()
        emptied = [_dummies(_cleaned(item, walk, depth + 1)) for item in items or ()]
        return DataElement(element.tag, "SQ", Sequence(emptied))
    first = representation.split(" ", maxsplit=1)[0]
    if element.keyword == "ICCProfile":
        return DataElement(element.tag, first, SRGB_PROFILE)
    return DataElement(element.tag, first, _DUMMIES.get(first, GONE))


def _dummies(item: Dataset) -> Dataset:
    """Replace what names or describes anything in an item that was cleaned already."""
    for element in item:
        if element.VR in TEXT or element.VR == "PN":
            element.value = GONE
        elif element.VR == "SQ":
            for inner in element.value:
                _dummies(inner)
    return item


def _cleaned_text(element: DataElement, representation: str, walk: _Walk) -> DataElement | None:
    texts, known = _texts(element), walk.known
    walk.text_chars += sum(map(len, texts))
    if walk.text_chars > MAX_TEXT_CHARS:
        raise Rejected(Reason.DECODE_FAILED)
    if representation == "CS":
        return _with(element, "CS", [GONE if _tells(text, known) else text for text in texts])
    return _with(element, representation, [known.clean(text) for text in texts])


def _tells(code: str, known: Known) -> bool:
    """Whether what should be a code holds an identifier: files write all sorts of text there."""
    return known.is_in(code) or Known(None).clean(code) != code


def _kept(element: DataElement, representation: str, walk: _Walk) -> DataElement | None:
    """Return an element as it was, if its value is of the kind its attribute has."""
    if representation == "UI":
        return _with(
            element,
            "UI",
            [walk.mapping.uid(uid) if _is_free(uid) else uid for uid in _texts(element)],
        )
    if representation in BYTES:
        if not isinstance(element.value, bytes):
            return None
        return _little_endian(element, walk.word_bytes) if walk.is_big_endian else element
    if pattern := _SHORT_TEXT.get(element.keyword):
        return element if all(pattern.fullmatch(text) for text in _texts(element)) else None
    return element if _is_numeric(element) else None


def _little_endian(element: DataElement, word_bytes: int) -> DataElement:
    """Swap the bytes of each word. word_bytes: of a pixel; other words have 2 (PS3.5 6.2)."""
    size = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}.get(str(element.VR), 1)
    if element.keyword == "PixelData" and element.VR == "OW":
        size = max(size, word_bytes)
    whole = len(element.value) // size * size
    swapped = np.frombuffer(element.value[:whole], f"u{size}").byteswap().tobytes()
    return DataElement(element.tag, element.VR, swapped)


def _is_free(uid: str) -> bool:
    """Whether a value that should be the UID of a class is no UID at all."""
    return not re.fullmatch(r"[0-9.]{1,64}", uid)


def _is_numeric(element: DataElement) -> bool:
    if element.VR not in NUMBERS:
        return False
    values = element.value if element.VM > 1 else [element.value]
    return all(
        value is None or value == "" or isinstance(value, int | float) or hasattr(value, "as_tuple")
        for value in values
    )


def _with(element: DataElement, representation: str, values: list[str]) -> DataElement:
    """Return the element with other values; none at all leaves it empty."""
    value: Any = values if len(values) > 1 else "".join(values)
    return DataElement(element.tag, representation, value or None)


def _texts(element: DataElement) -> list[str]:
    """Return the values of an element as text; empty values between others stay."""
    if element.VR == "SQ" or element.value is None:
        return []
    if isinstance(element.value, bytes):
        return []
    values = element.value if element.VM > 1 else [element.value]
    return [str(value) for value in values]


def _shifted(text: str, representation: str, patient: Patient) -> str | None:
    """Return a date moved by the patient's days; a time of day as it is; None if it is neither."""
    text = text.strip(" \0")
    if representation == "TM":
        return text if _TIME.fullmatch(text) else None
    if representation == "DA":
        return _shifted_date(_DATE.fullmatch(text), patient)
    if re.fullmatch(r"\d{4}(?:\d\d)?", text):
        # A year, or a year and a month: moved from their first day.
        day = _shifted_date(_DATE.fullmatch(f"{text}0101"[:_DAY_CHARS]), patient)
        return day and day[: len(text)]
    parts = _DATE_TIME.fullmatch(text)
    if parts is None:
        return None
    day = _shifted_date(_DATE.fullmatch(parts[1]), patient)
    return day and day + parts[2] + (parts[3] or "")


def _shifted_date(parts: re.Match[str] | None, patient: Patient) -> str | None:
    if parts is None:
        return None
    try:
        day = patient.shift(date(int(parts[1]), int(parts[2]), int(parts[3])))
    except (ValueError, OverflowError):
        return None
    return f"{day.year:04}{day.month:02}{day.day:02}"


def _declare(dataset: Dataset, patient: Patient, mapping: Mapping, *, pixels_cleaned: bool) -> None:
    """Say in the object what was done to it (PS3.15 E.1.1)."""
    codes = _PROFILE_CODES | (_PIXEL_CODES if pixels_cleaned else {})
    if not any(tag.is_private for tag in dataset.keys()):  # noqa: SIM118
        codes = {code: meaning for code, meaning in codes.items() if code != "113111"}
    if not isinstance(dataset.get("SOPInstanceUID"), str) or not dataset.SOPInstanceUID:
        dataset.SOPInstanceUID = mapping.uid(hashlib.sha256(_content(dataset)).hexdigest())
    dataset.PatientID = patient.pseudonym
    dataset.PatientName = patient.pseudonym
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = METHOD
    dataset.DeidentificationMethodCodeSequence = Sequence(
        [_coded(code, meaning) for code, meaning in sorted(codes.items())]
    )
    dataset.LongitudinalTemporalInformationModified = "MODIFIED"
    if pixels_cleaned:
        dataset.BurnedInAnnotation = "NO"
        dataset.RecognizableVisualFeatures = "NO"


def declares_clean_pixels(dataset: Dataset) -> bool:
    """Whether an object of ours says that faces and writing were covered in it."""
    return bool(dataset.get("RecognizableVisualFeatures") == "NO")


def declare_clean_pixels(dataset: Dataset) -> None:
    """Say in a sealed object of ours that faces and writing were covered later on."""
    done = dataset.DeidentificationMethodCodeSequence
    done.extend(_coded(code, meaning) for code, meaning in _PIXEL_CODES.items())
    dataset.BurnedInAnnotation = "NO"
    dataset.RecognizableVisualFeatures = "NO"


def _coded(code: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", meaning
    return item


def _add_file_meta(cleaned: Dataset, source: Dataset) -> None:
    """Give the copy file meta information of our own: nothing of the source's but the syntax.

    Pixels that are not compressed go on as Explicit VR Little Endian.
    """
    meta = FileMetaDataset()
    sop_class = cleaned.get("SOPClassUID")  # several values where there may be one are none
    meta.MediaStorageSOPClassUID = UID(
        sop_class if sop_class and isinstance(sop_class, str) else _SECONDARY_CAPTURE
    )
    meta.MediaStorageSOPInstanceUID = UID(cleaned.SOPInstanceUID)
    given = getattr(source, "file_meta", Dataset()).get("TransferSyntaxUID")
    is_compressed = given is not None and given.is_valid and given.is_encapsulated
    meta.TransferSyntaxUID = given if is_compressed else ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    meta.ImplementationVersionName = "CLOISTER"
    cleaned.file_meta = meta
