"""What the lists of attributes say, held against other copies: an entry lost or added shows."""

import pytest
from pydicom import DataElement
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import dictionary_VR, tag_for_keyword

from workers.deidentify.dicom import table
from workers.deidentify.dicom.table import Action, action_for
from workers.deidentify.dicom.words import known_identifiers

IDENTIFYING = """AccessionNumber AdmissionID BranchOfService ClinicalTrialSubjectID
    ClinicalTrialSubjectReadingID CountryOfResidence CurrentPatientLocation DeviceSerialNumber
    FillerOrderNumberImagingServiceRequest InstitutionAddress InstitutionName
    InstitutionalDepartmentName InsurancePlanIdentification IssuerOfPatientID MedicalRecordLocator
    OtherPatientIDs PatientAddress PatientID PatientInstitutionResidence PatientTelecomInformation
    PatientTelephoneNumbers PerformedProcedureStepID PersonAddress PersonTelecomInformation
    PersonTelephoneNumbers PlacerOrderNumberImagingServiceRequest ReferringPhysicianAddress
    ReferringPhysicianTelephoneNumbers RegionOfResidence RequestedProcedureID RequestingService
    ResponsibleOrganization ScheduledProcedureStepID ServiceEpisodeID SpecimenAccessionNumber
    StationName StudyID VerifyingOrganization PatientName OtherPatientNames PatientMotherBirthName
    OperatorsName ReferringPhysicianName"""


def action_of(keyword: str) -> Action:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    return action_for(tag, dictionary_VR(tag))


@pytest.mark.parametrize(
    "keyword",
    IDENTIFYING.split(),
)
def test_what_identifies_somebody_is_looked_for_in_every_text(keyword: str) -> None:
    tag = tag_for_keyword(keyword)
    assert tag is not None
    known = known_identifiers([DataElement(tag, dictionary_VR(tag), "zorkblub")])

    assert known.clean("CT Zorkblub knee") == "CT knee"


@pytest.mark.parametrize(
    ("keyword", "action"),
    [
        ("PatientBirthDate", Action.EMPTY),
        ("PatientBirthTime", Action.REMOVE),
        ("GPSDateStamp", Action.REMOVE),
        ("GPSTimeStamp", Action.REMOVE),
        ("CertifiedTimestamp", Action.REMOVE),
        ("ConfidentialityConstraintOnPatientDataDescription", Action.REMOVE),
        ("DeviceDescription", Action.REMOVE),
        ("LongDeviceDescription", Action.REMOVE),
        ("DeviceLabel", Action.REPLACE),
        ("RadiationDoseIdentificationLabel", Action.REPLACE),
        ("DeviceSerialNumber", Action.REPLACE),
        ("IconImageSequence", Action.REMOVE),
        ("ICCProfile", Action.REPLACE),
        ("ReferencedFileID", Action.REMOVE),
    ],
)
def test_what_looks_like_a_date_or_descriptor_of_the_examination_and_is_none_goes(
    keyword: str, action: Action
) -> None:
    assert action_of(keyword) is action


def test_of_all_bytes_those_that_make_the_picture_stay_and_no_others() -> None:
    kept = {
        row[4]
        for tag, row in DicomDictionary.items()
        if row[0] in table.BYTES and action_for(tag, row[0]) is Action.KEEP
    }
    palettes = {name for name in kept if name.endswith("PaletteColorLookupTableData")}

    assert len(palettes) == 11
    assert kept - palettes == {
        *("PixelData", "FloatPixelData", "DoubleFloatPixelData"),
        *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "LUTData", "WaveformData"),
        *("PointCoordinatesData", "DoublePointCoordinatesData", "VectorCoordinateData"),
        *("LongPrimitivePointIndexList", "TrackPointIndexList"),
    }


def test_of_all_uids_those_of_classes_and_code_lists_stay_and_no_others() -> None:
    kept = {
        row[4]
        for tag, row in DicomDictionary.items()
        if row[0] == "UI" and action_for(tag, "UI") is Action.KEEP
    }

    assert {name for name in kept if "Class" not in name and "TransferSyntax" not in name} == {
        "CodingSchemeUID",
        "ContextGroupExtensionCreatorUID",
        "ContextUID",
        "MappingResourceUID",
    }


def test_no_attribute_of_any_name_or_person_is_kept_as_it_is() -> None:
    kept = {
        row[4]
        for tag, row in DicomDictionary.items()
        if row[0] in table.TEXT | {"PN", "AE", "AS", "UR"} | table.DATES
        and action_for(tag, row[0]) is Action.KEEP
    }

    assert kept == {"TimezoneOffsetFromUTC"}
