"""A corpus with known identifiers in every kind of place, and its score on MIDI-B's ten actions.

Made from the DICOM files inside the pydicom wheel and a seed: each gets a patient (three files
share one), and that patient's names, numbers, dates and addresses are planted in known elements,
free text, nested items, private and unknown elements, overlays, file meta information and preamble.
The actions are those of the MIDI-B challenge (MICCAI 2024); each is scored by itself.
"""

import copy
import importlib.util
import io
import random
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from pydicom import DataElement, Dataset, dcmread, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

ACTIONS = (
    "tag_retained",
    "text_notnull",
    "text_removed",
    "text_retained",
    "date_shifted",
    "uid_changed",
    "uid_consistent",
    "patid_consistent",
    "pixels_hidden",
    "pixels_retained",
)
_FILES_PER_PATIENT = 3
_MAX_BYTES = 3_000_000

_NAMES = (
    ("Oakhurst", "Thaddeus"), ("Brightwater", "Philomena"), ("Müller-Lüdenscheidt", "Jörg"),
    ("Nakamura", "Haruki"), ("O'Shaughnessy", "Siobhan"), ("Kowalczyk", "Zbigniew"),
    ("Vandenberghe", "Annelies"), ("Okonkwo", "Chidiebere"), ("Ng", "Wai-Ling"),
    ("Sørensen", "Åse"), ("山田", "太郎"), ("Иванова", "Светлана"), ("김", "희중"),
    ("Papadopoulos", "Γεώργιος"),
)  # fmt: skip
_STREETS = ("Elderberry Lane", "Kestrel Avenue", "Quarry Hill Road", "Lindenstraße")
_CITIES = ("Pemberwick", "Saltmarsh", "Grünfelden", "Ostrava")
_HOSPITALS = ("Pemberwick General Hospital", "Clinique Beausoleil", "Klinikum Grünfelden")
_PHRASES = (
    "CT ABDOMEN W CONTRAST", "MR BRAIN AX T2 FLAIR", "CHEST PA AND LATERAL", "3.0 mm SOFT TISSUE",
    "post contrast venous phase", "LEFT KNEE 2 VIEWS", "DIFFUSION b=1000", "nodule 4 x 5 mm in RUL",
)  # fmt: skip
# Templates of free text: a phrase that must stay, and what must go.
_SENTENCES: tuple[Callable[["Person", str], str], ...] = (
    lambda who, phrase: f"{phrase} {who.last}, {who.first}",
    lambda who, phrase: f"{phrase} for {who.first} {who.last} (MRN: {who.number})",
    lambda who, phrase: f"{who.last}^{who.first} {phrase}",
    lambda who, phrase: f"{phrase} - {who.number}",
    lambda who, phrase: f"{who.written_date} {phrase}",
    lambda who, phrase: f"{phrase} seen by Dr. {who.doctor_last}",
    lambda who, phrase: f"{phrase}; call {who.phone}",
    lambda who, phrase: f"{phrase} {who.street}, {who.city}",
    lambda who, phrase: f"{phrase} {who.last.upper()}_{who.first.upper()}_{who.number}",
)
_TEXTS = (
    "StudyDescription", "SeriesDescription", "ImageComments", "ProtocolName",
    "DerivationDescription", "PerformedProcedureStepDescription", "AdditionalPatientHistory",
    "RequestedProcedureDescription", "PatientComments", "AcquisitionComments", "ReasonForStudy",
)  # fmt: skip
_KEPT = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames", "PlanarConfiguration",
    "PixelSpacing", "ImagerPixelSpacing", "ImagePositionPatient", "ImageOrientationPatient",
    "SliceThickness", "SliceLocation", "SpacingBetweenSlices", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "WindowCenter", "WindowWidth", "Modality", "SOPClassUID", "ImageType", "KVP",
    "RepetitionTime", "EchoTime", "FlipAngle", "MagneticFieldStrength", "Manufacturer",
    "ManufacturerModelName", "BodyPartExamined", "PatientPosition", "Laterality", "ImageLaterality",
    "ViewPosition", "InstanceNumber", "SeriesNumber", "AcquisitionNumber", "ConvolutionKernel",
    "Exposure", "ExposureTime", "XRayTubeCurrent", "SmallestImagePixelValue", "PixelPaddingValue",
    "LargestImagePixelValue", "RedPaletteColorLookupTableDescriptor", "LossyImageCompression",
    "StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "SoftwareVersions",
)  # fmt: skip
_DATES = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate")
_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")


@dataclass(frozen=True)
class Person:
    """A made-up patient."""

    last: str
    first: str
    number: str
    birth: date
    studied: date
    phone: str
    street: str
    city: str
    hospital: str
    doctor_last: str
    accession: str

    @property
    def written_date(self) -> str:
        """The day of the study as people write it."""
        return self.studied.strftime("%d.%m.%Y")

    def identifiers(self) -> tuple[str, ...]:
        """Everything that must be nowhere in a file of this patient."""
        return (
            f"{self.last}^{self.first}",
            self.number,
            f"{self.birth:%Y%m%d}",
            f"{self.studied:%Y%m%d}",
            self.written_date,
            self.phone,
            self.street,
            self.city,
            self.doctor_last,
            self.accession,
            *(part for part in (self.last, self.first) if len(part) > 2 or ord(part[0]) > 0x2E7F),  # noqa: PLR2004
        )


@dataclass(frozen=True)
class Case:
    """One planted file. texts: keyword → the phrase that must stay. uids: keyword → before."""

    name: str
    content: bytes = field(repr=False)
    person: Person
    source: Dataset = field(repr=False)
    texts: dict[str, str]
    uids: dict[str, str]


@dataclass
class Score:
    """How often each action was due and how often it was right; `missed` says where not."""

    due: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACTIONS, 0))
    right: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ACTIONS, 0))
    missed: list[tuple[str, str, str]] = field(default_factory=list)

    def count(self, action: str, is_right: bool, where: tuple[str, str]) -> None:
        self.due[action] += 1
        self.right[action] += is_right
        if not is_right:
            self.missed.append((action, *where))

    def rates(self) -> dict[str, float | None]:
        """Share of right ones per action; None where none was due."""
        return {
            action: self.right[action] / self.due[action] if self.due[action] else None
            for action in ACTIONS
        }


def build(seed: int, *, every: int = 1) -> Iterator[Case]:
    """Yield planted files, the same for the same seed. every: take each n-th file only."""
    chance = random.Random(seed)  # noqa: S311 - a corpus is to be the same every time
    person = _person(chance)
    number = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in wheel_files()[::every]:
            dataset = _readable(path)
            if dataset is None:
                continue
            if number % _FILES_PER_PATIENT == 0:
                person = _person(chance)
            number += 1
            if case := _planted(path.name, dataset, person, chance):
                yield case


def score(cases: Iterable[Case], deidentify: Callable[[bytes], bytes]) -> Score:
    """Run `deidentify` (file → de-identified file) over `cases` and count."""
    result = Score()
    offsets: dict[str, int] = {}
    uids: dict[str, str] = {}
    patients: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in cases:
            content = deidentify(case.content)
            after = dcmread(io.BytesIO(content), force=True)
            _score_text(result, case, content, after)
            _score_tags(result, case, after)
            _score_dates(result, case, after, offsets)
            _score_uids(result, case, content, after, uids)
            is_same = patients.setdefault(case.person.number, str(after.PatientID))
            result.count(
                "patid_consistent",
                is_same == after.PatientID and list(patients.values()).count(is_same) == 1,
                (case.name, "PatientID"),
            )
    return result


def wheel_files() -> list[Path]:
    """Return the DICOM files inside the pydicom wheel, by name."""
    spec = importlib.util.find_spec("pydicom")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pydicom")
    folder = Path(spec.origin).parent / "data"
    return sorted(path for path in folder.rglob("*") if path.suffix in (".dcm", ""))


def _readable(path: Path) -> Dataset | None:
    """Return an object worth planting in: small, with pixels or a report, and not broken."""
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        return None
    try:
        dataset = dcmread(path)
        dataset.decode()
        for element in dataset.iterall():
            str(element.value)
    except Exception:  # noqa: BLE001 - some files in the wheel are broken on purpose
        return None
    is_object = "PixelData" in dataset or "ContentSequence" in dataset
    return dataset if is_object and dataset.file_meta.get("TransferSyntaxUID") else None


def _person(chance: random.Random) -> Person:
    last, first = chance.choice(_NAMES)
    studied = date(chance.randint(1995, 2023), 1, 1) + timedelta(days=chance.randrange(365))
    return Person(
        last=last,
        first=first,
        number=f"{chance.choice('ABHX')}{chance.randrange(10**6, 10**7)}",
        birth=date(chance.randint(1930, 1990), 1, 1) + timedelta(days=chance.randrange(365)),
        studied=studied,
        phone=f"555-{chance.randrange(100, 1000)}-{chance.randrange(1000, 10000)}",
        street=f"{chance.randrange(1, 300)} {chance.choice(_STREETS)}",
        city=chance.choice(_CITIES),
        hospital=chance.choice(_HOSPITALS),
        doctor_last=chance.choice(("Featherstonehaugh", "Quackenbush", "Zimmerli")),
        accession=f"ACC{chance.randrange(10**7, 10**8)}",
    )


def _planted(name: str, dataset: Dataset, who: Person, chance: random.Random) -> Case | None:
    """Plant one patient in one object; None where the object cannot be written afterwards."""
    dataset = copy.deepcopy(dataset)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    texts = {}
    for keyword in chance.sample(_TEXTS, 8):
        phrase = chance.choice(_PHRASES)
        sentence = chance.choice(_SENTENCES)(who, phrase)
        dataset[keyword] = DataElement(keyword, _representation(keyword), sentence)
        texts[keyword] = phrase
    _plant_known(dataset, who, chance)
    _plant_nested(dataset, who, chance)
    _plant_elsewhere(dataset, who)
    for keyword in _UIDS:
        if keyword not in dataset:
            setattr(dataset, keyword, UID(f"1.2.840.99999.{chance.randrange(10**9)}"))
    out = io.BytesIO()
    syntax = dataset.file_meta.TransferSyntaxUID
    dataset.file_meta = _file_meta(dataset, who, syntax)
    dataset.preamble = (who.last.encode() + b" " + who.number.encode()).ljust(128, b"\0")[:128]
    try:
        dcmwrite(out, dataset, enforce_file_format=True)
    except Exception:  # noqa: BLE001 - an odd file; the corpus has enough others
        return None
    uids = {keyword: str(dataset[keyword].value) for keyword in _UIDS}
    return Case(name, out.getvalue(), who, dataset, texts, uids)


def _representation(keyword: str) -> str:
    return "LT" if keyword.endswith(("Comments", "History")) else "LO"


def _plant_known(dataset: Dataset, who: Person, chance: random.Random) -> None:
    dataset.PatientName = f"{who.last}^{who.first}"
    dataset.PatientID = who.number
    dataset.PatientBirthDate = f"{who.birth:%Y%m%d}"
    dataset.PatientAddress = f"{who.street}, {who.city}"
    dataset.PatientTelephoneNumbers = who.phone
    dataset.AccessionNumber = who.accession
    dataset.InstitutionName, dataset.InstitutionAddress = who.hospital, who.city
    dataset.ReferringPhysicianName = f"{who.doctor_last}^{who.first}"
    dataset.OperatorsName = f"{who.doctor_last}^Una"
    dataset.OtherPatientIDs = [f"{who.number}A", f"{who.number}B"]
    for keyword in _DATES:
        day = who.studied + timedelta(days=chance.choice((0, 0, 1)))
        setattr(dataset, keyword, f"{day:%Y%m%d}")
    dataset.AcquisitionDateTime = f"{who.studied:%Y%m%d}101530.25"


def _plant_nested(dataset: Dataset, who: Person, chance: random.Random) -> None:
    request, inner, study = Dataset(), Dataset(), Dataset()
    request.RequestedProcedureID = who.number
    request.RequestedProcedureDescription = f"knee {who.last}"
    dataset.RequestAttributesSequence = [request]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = f"1.2.840.99999.{who.number[1:]}"
    dataset.ReferencedStudySequence = [study]
    inner.PersonName, inner.ValueType = f"{who.last}^{who.first}", "PNAME"
    note = Dataset()
    note.ValueType, note.TextValue = "TEXT", chance.choice(_SENTENCES)(who, "no fracture")
    note.ObservationDateTime = f"{who.studied:%Y%m%d}1200"
    note.ContentSequence = Sequence([inner])
    dataset.ContentSequence = Sequence([*dataset.get("ContentSequence", []), note])


def _plant_elsewhere(dataset: Dataset, who: Person) -> None:
    hidden = f"{who.last} {who.number} {who.studied:%Y%m%d}"
    block = dataset.private_block(0x0019, f"MADE UP {who.last}"[:60], create=True)
    block.add_new(0x01, "LO", hidden[:60])
    block.add_new(0x02, "UN", hidden.encode())
    dataset.add_new(0x00091001, "UN", hidden.encode())
    dataset.add_new(0x00189FFE, "UN", hidden.encode())
    dataset.add_new(0x60100022, "LO", hidden[:60])
    dataset.add_new(0x60103000, "OW", hidden.encode().ljust(64, b"\0"))
    dataset.add_new(0x50003000, "OW", hidden.encode().ljust(64, b"\0"))
    dataset.add_new(0xFFFCFFFC, "OB", hidden.encode().ljust(64, b"\0"))
    icon = Dataset()
    icon.Rows = icon.Columns = 8
    icon.PixelData = hidden.encode().ljust(64, b"\0")
    icon["PixelData"].VR = "OB"
    dataset.IconImageSequence = [icon]


def _file_meta(dataset: Dataset, who: Person, syntax: UID) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID") or UID("1.2.840.10008.5.1.4.1.1.7")
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    kept = syntax.is_encapsulated or syntax in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
    meta.TransferSyntaxUID = syntax if kept else ExplicitVRLittleEndian
    meta.SourceApplicationEntityTitle = who.number
    return meta


def _score_text(result: Score, case: Case, content: bytes, after: Dataset) -> None:
    pixels = after.get("PixelData") or b""
    written = content.replace(pixels, b"") if pixels else content
    folded = written.decode("utf-8", "replace").casefold()
    for planted in case.person.identifiers():
        if planted.encode() not in case.content:
            continue
        is_gone = planted.casefold() not in folded
        result.count("text_removed", is_gone, (case.name, planted))
    for keyword, phrase in case.texts.items():
        left = str(after.get(keyword) or "")
        result.count("text_notnull", bool(left.strip()), (case.name, keyword))
        words = set(re.findall(r"\w+", left))
        kept = all(word in words for word in re.findall(r"\w+", phrase))
        result.count("text_retained", kept, (case.name, f"{keyword}: {phrase!r} → {left!r}"))


def _score_tags(result: Score, case: Case, after: Dataset) -> None:
    for keyword in _KEPT:
        if keyword in case.source and case.source[keyword].value not in (None, ""):
            same = keyword in after and after[keyword].value == case.source[keyword].value
            result.count("tag_retained", same, (case.name, keyword))
    if "PixelData" in case.source:
        same = after.get("PixelData") == case.source.PixelData
        result.count("pixels_retained", same, (case.name, "PixelData"))


def _score_dates(result: Score, case: Case, after: Dataset, offsets: dict[str, int]) -> None:
    for keyword in (*_DATES, "AcquisitionDateTime"):
        before, left = str(case.source[keyword].value), str(after.get(keyword) or "")
        days = _days(left) - _days(before) if re.match(r"\d{8}", left) else 0
        due = offsets.setdefault(case.person.number, days)
        right = days != 0 and days == due and left[8:] == before[8:]
        result.count("date_shifted", right, (case.name, keyword))


def _days(text: str) -> int:
    return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()


def _score_uids(
    result: Score, case: Case, content: bytes, after: Dataset, uids: dict[str, str]
) -> None:
    for keyword, before in case.uids.items():
        left = str(after.get(keyword) or "")
        is_new = bool(re.fullmatch(r"[0-9.]{5,64}", left)) and before.encode() not in content
        result.count("uid_changed", is_new and left != before, (case.name, keyword))
        same = uids.setdefault(before, left) == left
        result.count("uid_consistent", same, (case.name, keyword))
