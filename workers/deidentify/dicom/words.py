"""Take a patient's identifiers out of free text: those we know, and what looks like one.

Known are the values of the data set's identifying elements, wherever they stand. What looks like
one needs no dictionary: dates, telephone numbers, addresses, UIDs, numbers announced as such, and
capitalised words behind a title. Measurements and anatomy stay.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from pydicom import DataElement, Dataset

GONE = "REMOVED"
"""Stands where nothing else is left, since some attributes must not be empty."""

_MIN_NAME = 2
_MIN_NUMBER = 4
_MAX_KNOWN = 2000

_IDENTIFYING = frozenset(
    {
        "AccessionNumber",
        "AdmissionID",
        "BranchOfService",
        "ClinicalTrialSubjectID",
        "ClinicalTrialSubjectReadingID",
        "CountryOfResidence",
        "CurrentPatientLocation",
        "DeviceSerialNumber",
        "FillerOrderNumberImagingServiceRequest",
        "InstitutionAddress",
        "InstitutionName",
        "InstitutionalDepartmentName",
        "InsurancePlanIdentification",
        "IssuerOfPatientID",
        "MedicalRecordLocator",
        "OtherPatientIDs",
        "PatientAddress",
        "PatientID",
        "PatientInstitutionResidence",
        "PatientTelecomInformation",
        "PatientTelephoneNumbers",
        "PerformedProcedureStepID",
        "PersonAddress",
        "PersonTelecomInformation",
        "PersonTelephoneNumbers",
        "PlacerOrderNumberImagingServiceRequest",
        "ReferringPhysicianAddress",
        "ReferringPhysicianTelephoneNumbers",
        "RegionOfResidence",
        "RequestedProcedureID",
        "RequestingService",
        "ResponsibleOrganization",
        "ScheduledProcedureStepID",
        "ServiceEpisodeID",
        "SpecimenAccessionNumber",
        "StationName",
        "StudyID",
        "VerifyingOrganization",
    }
)
# Their parts are words of the language: only the whole value is looked for.
_WHOLE_ONLY = frozenset(
    {
        "BranchOfService",
        "CountryOfResidence",
        "CurrentPatientLocation",
        "InstitutionalDepartmentName",
        "InsurancePlanIdentification",
        "RegionOfResidence",
        "RequestingService",
        "StationName",
    }
)
# In names and addresses of institutions these say what, not who or where.
_COMMON = frozenset(
    {"the", "and", "of", "for", "dr", "mr", "mrs", "ms", "miss", "prof", "md", "phd", "rn", "rt"}
    | {"jr", "sr", "ii", "iii", "von", "van", "de", "der", "den", "del", "da", "di", "la", "le"}
    | {"el", "st", "saint", "hospital", "clinic", "clinical", "center", "centre", "medical"}
    | {"imaging", "radiology", "department", "institute", "university", "general", "health"}
    | {"care", "street", "road", "avenue", "ave", "rd", "drive", "lane", "test", "patient"}
    | {"phantom", "unknown", "anonymous", "none", "na", "no", "name", "id", "case", "ct", "mr"}
    | {"pet", "us", "xr", "head", "chest", "brain", "left", "right", "north", "south", "east"}
    | {"west", GONE.lower()}
)

# Repetitions before what makes a match are bounded: text is of any length, and a search that begins
# anew at every letter must not run to its end each time.
# English, German, French, Spanish and Italian.
_MONTH = (
    r"(?:jan(?:uar[yi]?|vier)?|j[äa]nner|enero|gennaio|feb(?:er|ruar[yi]?|rero|braio)?|f[ée]vr?(?:rier)?"
    r"|mar(?:ch|s|zo)?|m[äa]e?rz|mrz|apr(?:il|ile)?|avr(?:il)?|abril|ma[yi]|mayo|maggio"
    r"|june?|juni|juin|junio|giugno|july?|juli|juil(?:let)?|julio|luglio|aug(?:ust)?|ao[ûu]t"
    r"|agosto|sept?(?:ember|embre|tiembre)?|settembre|o[ck]t(?:ober|obre|ubre)?|ottobre"
    r"|nov(?:ember|embre|iembre)?|de[cz](?:ember|embre)?|d[ée]c(?:embre)?|dic(?:iembre|embre)?)"
    r"\b\.?"
)
_DAY_BEFORE = r"(?<![\d.])(?:0?[1-9]|[12]\d|3[01])"
_OF = r"(?: *(?:de|di|of))?"
# Words in front of a person's name: titles, and what one is to the patient or did.
_TITLE = (
    r"(?:dr|drs|dra|mr|mrs|ms|miss|prof|professor|doctor|doktor|herrn?|frau|mme|mlle|monsieur"
    r"|madame|se[ñn]ora?|sra?|signora?|nurse|schwester|pfleger|tech|technologist|technician"
    r"|radiologist|physician|surgeon|sonographer|operator|radiographer|arzt|[äa]rztin|m[ée]decin)"
)
_RELATION = (
    r"(?:mother|father|wife|husband|son|daughter|brother|sister|spouse|partner|mutter|vater"
    r"|ehefrau|ehemann|sohn|tochter|m[èe]re|p[èe]re|baby|patient|pat|pt|patientin|name|reported"
    r"|signed|dictated|referred|ordered|performed|requested|reviewed|verified|approved|seen|read"
    r"|attending|reading)(?: (?:by|of|von|de|name|is))?"
)
_NAME = r"[A-ZÀ-ÞА-ЯΑ-Ω](?:\.|[^\W\d_]?[a-zß-ÿа-яα-ω'’-][\w'’-]*|[A-ZÀ-Þ]?'[A-Z][\w'’-]+)"
_YEAR = r"(?:1[89]\d\d|20\d\d)"
_PATTERNS = tuple(
    re.compile(pattern, flags)
    for pattern, flags in (
        # e-mail and web addresses
        (r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+", 0),
        (r"\b(?:https?|ftp|file)://\S+|\bwww\.\S+", re.I),
        # names as DICOM writes them
        (r"\b[^\W\d_][\w'-]{0,63}(?:\^+[^\W\d_][\w'.-]*)+\^*", 0),
        # dates with a year; 8 digits in a row; month and day in words
        (
            rf"(?<!\d){_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])"
            r"(?:[T ]?\d{4,6}(?:\.\d+)?)?(?!\d)",
            0,
        ),
        (
            rf"(?<!\d){_YEAR}[-/. ](?:0?[1-9]|1[0-2])[-/. ](?:0?[1-9]|[12]\d|3[01])(?!\d)"
            r"(?:T\d\d(?::?\d\d){0,2}(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?)?",
            0,
        ),
        (rf"(?<!\d)(?:0[1-9]|[12]\d|3[01])(?:0[1-9]|1[0-2]){_YEAR}(?!\d)", 0),
        (rf"(?<!\d)(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]){_YEAR}(?!\d)", 0),
        (rf"(?<![\d./])(?:0?[1-9]|1[0-2])[/.-]{_YEAR}(?!\d)", 0),
        (r"(?<![\d.])(?:0[1-9]|[12]\d|3[01])\.(?:0[1-9]|1[0-2])\.(?!\d)", 0),
        (
            rf"(?<!\d)(?:0?[1-9]|[12]\d|3[01])[-/.](?:0?[1-9]|[12]\d|3[01])[-/.](?:{_YEAR}|\d\d)(?!\d)",
            0,
        ),
        (
            rf"{_DAY_BEFORE}(?:st|nd|rd|th|er)?\.?{_OF}[ .-]*{_MONTH}{_OF}"
            rf"(?:[ ,.-]*(?:{_YEAR}|\d\d)\b)?",
            re.I,
        ),
        (rf"\b{_MONTH} *\d{{1,2}}(?:st|nd|rd|th)?(?:,? *{_YEAR})?\b", re.I),
        (rf"\b{_MONTH}{_OF}[ ,-]*{_YEAR}\b", re.I),
        (rf"{_YEAR} *年 *\d+ *月 *\d+ *日", 0),
        # UIDs, telephone and social security numbers, network addresses
        (r"(?<![\d.])[0-2](?:\.\d+){5,}(?![\d.])", 0),
        (r"(?<![\d.])[1-9]\d{1,2}(?:\.\d{1,3}){3}(?![\d.])", 0),
        (r"(?<![\d.])\d{3}-\d{2}-\d{4}(?![\d.])", 0),
        (r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\w)", 0),
        (r"(?<![\w.])\+\d[\d ()/-]{6,}\d(?!\w)", 0),
        (r"(?<![\w.])0\d{1,4} ?[/-] ?\d{4,}(?!\w)", 0),
        (r"(?<![\w.])0\d(?:[ .]\d\d){4}(?!\w)", 0),
        # a web address without its scheme
        (
            r"\b[a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){0,8}\.(?:com|org|net|edu|gov|int|de|fr"
            r"|uk|ch|at|es|it|nl)\b\S*",
            0,
        ),
        # six digits or more in a row, with or without letters in front: no measurement has them
        (r"(?<![\w.])[A-Za-z]{0,4}-?\d{6,}[A-Za-z]?(?![\w.]*\d)", 0),
        (r"(?<![\w.])[A-Z]{2,3}-\d{4,}(?!\w)", 0),
        # what is announced as an identifier
        (
            r"\b(?:mrn|ssn|dob|born|birth ?date|acc(?:ession)?(?: ?(?:no|num|number))?"
            r"|patient ?(?:id|name|no)|pat ?id|pt ?(?:id|name)|tel|phone|fax|account"
            r"|record ?(?:no|number)|case ?(?:no|number)|id|ident|pat\.?-?(?:nr|id|no)|fall-?nr)"
            r"\b[ .]*[:#=]+ *[^\s,;]+(?: [A-Z][\w'-]+)?",
            re.I,
        ),
        (
            r"\b(?:tel|phone|fax|id|pat\.?-?(?:nr|id|no)|patient (?:no|number|nr|id)|fall-?nr|acc)"
            r"\b[ .]*(?=\S{0,63}\d{3})[\w/-]+",
            re.I,
        ),
        # ages above 89 (45 CFR 164.514(b)(2)(i)(C))
        (
            r"(?<![\d.])(?:9\d|1[0-4]\d)[ -]?"
            r"(?:years?|yrs?|yo|y/o|y|jahre?|j[äa]hrig\w*|ans|a[ñn]os)\b"
            r"(?:[ -]old)?",
            re.I,
        ),
        (r"\b(?:aged?|alter|[âa]ge)[ :]*(?:9\d|1[0-4]\d)\b(?![.\d])", re.I),
        (r"\b(?:MRN|SSN|DOB) *\S{0,63}\d\S*", re.I),
        # a title and the names behind it
        (rf"\b[Dd]rs?\b\.?,? *(?:med\.? *)?[^\W\d_][\w'’-]+(?: {_NAME}){{0,2}}", 0),
        (
            rf"\b(?i:{_TITLE})\b[.:,]? *(?:(?i:dr|med|von|van|de)\b\.? *){{0,3}}"
            rf"(?:{_NAME} ?){{1,3}}",
            0,
        ),
        (r"\b(?:Dr|Mr|Mrs|Ms|Miss|Prof|DR|MR\.|MRS|MS\.|PROF)\.?,? +(?:[A-Z][\w'.-]*\s?){1,3}", 0),
        (rf"(?<![\w-])(?i:{_RELATION})\b ?:? (?:{_NAME} ?){{1,3}}", 0),
        (
            r"\b(?:[A-Z][\w'.-]{1,63} ){1,2}(?:[A-Z]\.? )?[A-Z][\w'-]{1,63},?"
            r" (?:MD|M\.D\.|PhD|DO|RN)\b",
            0,
        ),
        # house number and street; state and postal code
        (
            r"\b\d{1,5} (?:[A-Z][\w'.-]* ){1,4}(?i:street|st|avenue|ave|road|rd|lane|ln|drive|dr"
            r"|boulevard|blvd|court|ct|way|place|pl|square|sq)\b\.?"
            r"(?:,? (?i:apt|suite|unit)\.? ?\w+)?",
            0,
        ),
        (r"\b[A-Z][\w'-]{1,63},? [A-Z]{2} \d{5}(?:-\d{4})?\b", 0),
        (r"\b[\w'-]{1,63}(?:stra(?:ss|ß)e|str\.|weg|gasse|platz) ?\d+[a-z]?\b", re.I),
        (
            r"\b\d{1,4},? (?:bis )?(?:rue|avenue|boulevard|place|impasse|via|calle|chemin)\b"
            r"(?: [\w'’-]+){1,4}",
            re.I,
        ),
        (rf"(?<![\d.])\d{{5}} {_NAME}", 0),
        (r"\b[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b", 0),
        (r"\bP\.?O\.? ?Box \d+", re.I),
    )
)
_HAS_CONTENT = re.compile(r"\w")
_SPACES = re.compile(r"[ \t]{2,}")


@dataclass(frozen=True)
class Known:
    """One pattern for all identifiers of a data set."""

    pattern: re.Pattern[str] | None

    def is_in(self, code: str) -> bool:
        """Whether a coded value holds an identifier of four letters or more.

        Shorter names are also codes: patients are called Ax, and so are slices.
        """
        found = self.pattern.search(code) if self.pattern else None
        return found is not None and len(found[0]) >= _MIN_NUMBER

    def clean(self, text: str) -> str:
        """Return `text` without identifiers; GONE if nothing else was in it.

        Text that holds none comes back as it was.
        """
        found = unicodedata.normalize("NFC", text)
        cleaned = self.pattern.sub(" ", found) if self.pattern else found
        for pattern in _PATTERNS:
            cleaned = pattern.sub(" ", cleaned)
        if cleaned == found:
            return text
        cleaned = _SPACES.sub(" ", cleaned).strip(" ,;:-_^/")
        return cleaned if _HAS_CONTENT.search(cleaned) else GONE


def known_identifiers(elements: Iterable[DataElement]) -> Known:
    """Collect what identifies the patient and those who cared for them.

    elements: all of a data set, those in sequences included, before anything is changed.
    """
    found: set[str] = set()
    for element in elements:
        if len(found) >= _MAX_KNOWN:
            break
        if element.VR == "PN":
            for value in _values(element):
                found.update(_name_parts(value))
        # The elements of a sequence come by themselves.
        elif element.keyword in _IDENTIFYING and element.VR != "SQ":
            for value in _values(element):
                found.update(_parts(value, whole_only=element.keyword in _WHOLE_ONLY))
    if not found:
        return Known(None)
    longest_first = sorted(found, key=lambda word: (-len(word), word))
    return Known(
        re.compile("|".join(_bounded(word) for word in longest_first), re.IGNORECASE | re.UNICODE)
    )


def all_elements(dataset: Dataset) -> Iterable[DataElement]:
    """Every element, those in sequences included; elements that cannot be read are left out."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # noqa: BLE001, S112 - whatever a value breaks: it will be removed
            continue
        yield element
        if element.VR == "SQ":
            for item in element.value or ():
                yield from all_elements(item)


def _values(element: DataElement) -> list[str]:
    if not element.value:
        return []
    value = element.value
    many = value if element.VM > 1 else [value]
    return [unicodedata.normalize("NFC", str(one)).strip() for one in many if one]


def _name_parts(name: str) -> set[str]:
    """Return the parts of a person's name in each script it is written in (PS3.5 6.2.1)."""
    parts = {part for part in re.split(r"[\^=\s,]+", name) if _is_telling(part, _MIN_NAME)}
    return parts | {group for group in name.split("=") if _is_telling(group, _MIN_NUMBER)}


def _parts(value: str, *, whole_only: bool) -> set[str]:
    parts = {value}
    if not whole_only:
        parts.update(re.split(r"[\s,;\r\n^]+", value))
    return {part for part in parts if _is_telling(part, _MIN_NUMBER)}


def _is_telling(part: str, least: int) -> bool:
    bare = part.strip(".'-_ ")
    if any(ord(letter) > 0x2E7F for letter in bare):  # noqa: PLR2004 - ideographs, kana, hangul
        return True
    return len(bare) >= least and bare.lower() not in _COMMON


def _bounded(word: str) -> str:
    """Return a pattern for `word`, whatever stands between its parts, not inside another word."""
    pieces = [re.escape(piece) for piece in re.split(r"[\W_]+", word) if piece]
    inner = r"[\W_]*".join(pieces) if len(pieces) > 1 else re.escape(word)
    if any(ord(letter) > 0x2E7F for letter in word):  # noqa: PLR2004 - written without spaces
        return inner
    return rf"(?<![^\W_]){inner}(?![^\W_])"
