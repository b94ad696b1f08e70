"""What happens to each DICOM attribute: PS3.15 table E.1-1, and our policy on top of it.

The basic actions come from `dicom-anonymizer` (BSD, PS3.15 2026c). It has no columns for the
options, so what those change is said here, by value representation and by name:

| option (PS3.15 E.3)                       | attributes                       | action            |
|-------------------------------------------|----------------------------------|-------------------|
| Retain Longitudinal, Modified Dates (3.6) | every DA, DT; TM; time zone      | shifted; TM kept  |
| Clean Descriptors (3.5)                   | descriptions, comments, labels…  | words cleaned     |
| Clean Structured Content (3.4)            | content, acquisition context     | items cleaned     |
| Clean Graphics (3.3)                      | graphic annotations              | items cleaned     |
|                                           | overlays 60xx, curves 50xx       | removed           |
| Retain Device Identity (3.8)              | off                              | as the profile    |
| Retain Safe Private (3.10)                | SAFE_PRIVATE, numbers only       | kept              |

Where the profile leaves a choice that depends on the kind of object ("X/Z", "X/Z/D"), the last one
is taken: it suits every kind. An attribute that the table does not name is handled by its value
representation (`_by_representation`); one that no dictionary names is removed.
"""

from enum import StrEnum
from functools import lru_cache

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as basic
from pydicom.datadict import dictionary_has_tag, dictionary_keyword
from pydicom.tag import BaseTag

SOURCE = "PS3.15 2026c"


class Action(StrEnum):
    """What is done to one element; the names that a report counts."""

    REMOVE = "removed"
    EMPTY = "emptied"
    REPLACE = "replaced"
    MAP_UID = "uid_mapped"
    MAP_PATIENT = "patient_mapped"
    SHIFT = "date_shifted"
    CLEAN = "cleaned"
    DESCEND = "descended"
    KEEP = "kept"


TEXT = frozenset({"LO", "LT", "SH", "ST", "UC", "UT"})
DATES = frozenset({"DA", "DT", "TM"})
NUMBERS = frozenset({"DS", "FD", "FL", "IS", "SL", "SS", "SV", "UL", "US", "UV", "AT", "US or SS"})
BYTES = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN", "OB or OW", "US or OW"})

# Dates of a person rather than of an examination.
_NOT_SHIFTED = frozenset(
    {"PatientBirthDate", "PatientBirthTime", "GPSDateStamp", "GPSTimeStamp", "CertifiedTimestamp"}
)
_DESCRIPTOR_ENDS = ("Description", "Comments", "Label", "Narrative", "Notes")
_DESCRIPTORS = frozenset(
    {
        "AdditionalPatientHistory",
        "Allergies",
        "ContrastBolusAgent",
        "DerivationDescription",
        "Impressions",
        "InterpretationText",
        "MedicalAlerts",
        "Occupation",
        "PatientState",
        "PositionAcquisitionTemplateName",
        "PreMedication",
        "ProtocolName",
        "ReasonForStudy",
        "ReasonForSuperseding",
        "ReasonForTheImagingServiceRequest",
        "ReasonForTheRequestedProcedure",
        "ReasonForVisit",
        "RequestedContrastAgent",
        "ROIName",
        "RTPlanName",
        "SpecialNeeds",
        "StructureSetName",
        "TextString",
        "TopicKeywords",
        "TopicSubject",
        "TopicTitle",
        "TreatmentSite",
        "TreatmentSites",
        "UnformattedTextValue",
    }
)
# They end like a descriptor and are not one: the standard has no C for them.
_NOT_DESCRIPTORS = frozenset(
    {
        "ConfidentialityConstraintOnPatientDataDescription",
        "DeviceDescription",
        "DeviceLabel",
        "LongDeviceDescription",
        "RadiationDoseIdentificationLabel",
    }
)
_DESCENDED = frozenset(
    {
        "AcquisitionContextSequence",
        "AdmittingDiagnosesCodeSequence",
        "ContentSequence",
        "GraphicAnnotationSequence",
        "ReasonForRequestedProcedureCodeSequence",
        "ReferencedImageSequence",
        "ReferencedPerformedProcedureStepSequence",
        "ReferencedStudySequence",
        "SourceImageSequence",
        "SpecimenPreparationSequence",
        "WaveformAnnotationSequence",
    }
)
_OURS = {
    "PatientID": Action.MAP_PATIENT,
    "PatientName": Action.MAP_PATIENT,
    "TimezoneOffsetFromUTC": Action.KEEP,
    # A dummy document would still be called one; what carries nothing else is rejected.
    "EncapsulatedDocument": Action.REPLACE,
    # Names of files.
    "ReferencedFileID": Action.REMOVE,
    # Names the device by its serial number.
    "ICCProfile": Action.REPLACE,
}

# Bytes with a use in showing the picture. All others may hold anything and are removed.
_PICTURE_BYTES = frozenset(
    {
        "PixelData",
        "FloatPixelData",
        "DoubleFloatPixelData",
        "ExtendedOffsetTable",
        "ExtendedOffsetTableLengths",
        "LUTData",
        "WaveformData",
        "DoublePointCoordinatesData",
        "LongPrimitivePointIndexList",
        "PointCoordinatesData",
        "TrackPointIndexList",
        "VectorCoordinateData",
    }
)
_PICTURE_BYTES_ENDS = ("PaletteColorLookupTableData",)
_CLASS_ENDS = ("ClassUID", "ClassUIDs", "SyntaxUID", "ClassesInStudy", "ClassesSupported")
_CLASSES = frozenset(
    {"CodingSchemeUID", "ContextUID", "MappingResourceUID", "ContextGroupExtensionCreatorUID"}
)

# (group, creator, byte of the element): numbers that scale or orient the picture
# (PS3.15 table E.3.10-1). A value that is not a number is removed all the same.
SAFE_PRIVATE = frozenset(
    {
        (0x0019, "SIEMENS MR HEADER", 0x0C),  # b value
        (0x0019, "SIEMENS MR HEADER", 0x0E),  # diffusion gradient direction
        (0x0019, "SIEMENS MR HEADER", 0x27),  # b matrix
        (0x0043, "GEMS_PARM_01", 0x39),  # b value
        (0x2001, "Philips Imaging DD 001", 0x03),  # b factor
        (0x7053, "Philips PET Private Group", 0x00),  # SUV factor
        (0x7053, "Philips PET Private Group", 0x09),  # activity concentration factor
    }
)


def _named(rows: list[tuple[int, ...]], action: Action) -> dict[int, Action]:
    return {row[0] << 16 | row[1]: action for row in rows if len(row) == 2}  # noqa: PLR2004


BASIC: dict[int, Action] = (
    _named(basic.X_TAGS, Action.REMOVE)
    | _named(basic.Z_TAGS, Action.EMPTY)
    | _named(basic.D_TAGS, Action.REPLACE)
    | _named(basic.U_TAGS, Action.MAP_UID)
    | _named(basic.X_Z_TAGS, Action.EMPTY)
    | _named(basic.X_D_TAGS, Action.REPLACE)
    | _named(basic.Z_D_TAGS, Action.REPLACE)
    | _named(basic.X_Z_D_TAGS, Action.REPLACE)
    | _named(basic.X_Z_U_STAR_TAGS, Action.DESCEND)
)
"""Table E.1-1, its groups 50xx and 60xx left out: `_is_removed_group` has them."""


@lru_cache(maxsize=8192)
def action_for(tag: int, representation: str) -> Action:  # noqa: PLR0911 - a table
    """Return what is done to a standard attribute with the value representation it came with."""
    if _is_removed_group(tag) or not (tag in BASIC or dictionary_has_tag(tag)):
        return Action.REMOVE
    keyword = dictionary_keyword(tag) if dictionary_has_tag(tag) else ""
    if keyword in _OURS:
        return _OURS[keyword]
    if tag not in BASIC:
        return _by_representation(keyword, representation)
    if representation in DATES and keyword not in _NOT_SHIFTED:
        return Action.SHIFT
    if representation == "SQ" and keyword in _DESCENDED:
        return Action.DESCEND
    if representation in TEXT and is_descriptor(keyword):
        return Action.CLEAN
    return BASIC[tag]


def is_descriptor(keyword: str) -> bool:
    """Whether an attribute of table E.1-1 has a C in the column Clean Descriptors."""
    return keyword in _DESCRIPTORS or (
        keyword.endswith(_DESCRIPTOR_ENDS) and keyword not in _NOT_DESCRIPTORS
    )


def _by_representation(keyword: str, representation: str) -> Action:  # noqa: PLR0911 - a table
    """Return what is done to an attribute that table E.1-1 does not name."""
    if representation in TEXT or representation == "CS":
        return Action.CLEAN
    if representation in DATES:
        return Action.SHIFT
    if representation == "UI":
        of_a_class = keyword.endswith(_CLASS_ENDS) or keyword in _CLASSES
        return Action.KEEP if of_a_class else Action.MAP_UID
    if representation == "SQ":
        return Action.DESCEND
    if representation in NUMBERS:
        return Action.KEEP
    if representation in BYTES:
        of_the_picture = keyword in _PICTURE_BYTES or keyword.endswith(_PICTURE_BYTES_ENDS)
        return Action.KEEP if of_the_picture else Action.REMOVE
    return Action.REPLACE if representation == "PN" else Action.REMOVE


def _is_removed_group(tag: int) -> bool:
    """Commands, file meta information, group lengths, curves, overlays, padding, signatures."""
    group = tag >> 16
    return (
        group < 4  # noqa: PLR2004 - the first group of a data set, that of directories
        or tag & 0xFFFF == 0
        or group & 0xFF00 in (0x5000, 0x6000)
        or group >= 0xFFFA  # noqa: PLR2004
    )


def is_safe_private(tag: BaseTag, creator: str) -> bool:
    """Whether a private element is one of SAFE_PRIVATE."""
    return (tag.group, creator.strip(), tag.element & 0xFF) in SAFE_PRIVATE
