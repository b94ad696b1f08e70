"""What is left of a header: table E.1-1 row by row, and the places that no table names."""

import io
import re
import warnings
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import pytest
from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as basic
from PIL import Image, ImageCms
from pydicom import DataElement, Dataset, dcmwrite
from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID as UI

from retrieval.errors import Reason, Rejected
from tests.decode import samples
from workers.deidentify.dicom import header, table
from workers.deidentify.dicom.colours import SRGB_PROFILE
from workers.deidentify.dicom.mapping import Mapping, Patient, patient_identity
from workers.deidentify.dicom.table import Action
from workers.deidentify.dicom.words import GONE

MAPPING = Mapping(b"k" * 32)
PLANTED = "Xaverine Quux"
UID = "1.2.3.4.5.6789.1"
VALUES: dict[str, Any] = {
    "PN": "Quux^Xaverine",
    "DA": "20191231",
    "DT": "20191231235959.5+0100",
    "TM": "235959",
    "UI": UID,
    "AS": "047Y",
    "CS": "XAVERINE QUUX",
    "AE": "XAVERINE QUUX",
    "UR": "https://quux.example/xaverine",
    **dict.fromkeys(("DS", "IS", "FD", "FL", "SL", "SS", "UL", "US", "UV", "SV"), 4711),
    **dict.fromkeys(("OB", "OW", "UN"), b"Xaverine Quux "),
}
ISSUER_OF_PATIENT_ID = (0x0010, 0x0021)  # it would make another patient of this one
WRITTEN_BY_US = ("PatientIdentityRemoved", "DeidentificationMethod")
ROWS = [row for row in basic.ALL_TAGS if len(row) == 2]


def patient() -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = "1.2.3.4.5.1"
    dataset.PatientName = "Quux^Xaverine"
    dataset.PatientID = "HX-90210"
    dataset.Rows = dataset.Columns = 16
    return dataset


def cleaned(dataset: Dataset) -> Dataset:
    return header.deidentified_header(dataset, MAPPING, pixels_cleaned=False)[0]


def reread(dataset: Dataset) -> Dataset:
    out = io.BytesIO()
    dcmwrite(out, dataset, implicit_vr=False, little_endian=True, enforce_file_format=False)
    return header.read(out.getvalue())


def ct() -> Dataset:
    return header.read(samples.dicom("CT_small.dcm"))


def stand_in() -> Patient:
    return MAPPING.patient(patient())


def of_row(row: tuple[int, int]) -> DataElement:
    tag = row[0] << 16 | row[1]
    representation = dictionary_VR(tag) if dictionary_has_tag(tag) else "LO"
    if representation == "SQ":
        item = Dataset()
        item.PersonName, item.CodeMeaning = "Quux^Xaverine", PLANTED
        item.ReferencedSOPInstanceUID = UID
        return DataElement(tag, "SQ", Sequence([item]))
    return DataElement(tag, representation, VALUES.get(representation, PLANTED))


@cache
def object_of_all_rows() -> Dataset:
    dataset = patient()
    for row in ROWS:
        if row[0] << 16 | row[1] not in dataset and row != ISSUER_OF_PATIENT_ID:
            dataset.add(of_row(row))
    return cleaned(dataset)


def columns_of(row: tuple[int, int]) -> str:
    """The Basic Profile's column of table E.1-1, as the library has it."""
    return next(
        name
        for name, rows in {
            "X": basic.X_TAGS,
            "Z": basic.Z_TAGS,
            "D": basic.D_TAGS,
            "U": basic.U_TAGS,
            "X/Z": basic.X_Z_TAGS,
            "X/D": basic.X_D_TAGS,
            "Z/D": basic.Z_D_TAGS,
            "X/Z/D": basic.X_Z_D_TAGS,
            "X/Z/U*": basic.X_Z_U_STAR_TAGS,
        }.items()
        if row in rows
    )


def is_dummy(left: DataElement, given: DataElement) -> bool:
    """Whether something stands there that is nothing of what was given (action D)."""
    if left.VR == "SQ":
        names = [str(e.value) for item in left.value for e in item if e.VR in ("PN", "LO")]
        return len(left.value) == 1 and set(names) <= {GONE}
    if left.VR == "UI":
        return bool(left.value == MAPPING.uid(UID))
    return left.value not in (None, "", given.value)


# What the options and our policy make of rows, beside the column of the Basic Profile.
OPTIONS: dict[str, str] = {
    "PatientID": "pseudonym",
    "PatientName": "pseudonym",
    "TimezoneOffsetFromUTC": "kept",  # 3.6, if it is an offset
    "EncapsulatedDocument": "D",
    "ReferencedFileID": "X",
}


def expected(row: tuple[int, int], given: DataElement) -> str:
    tag = row[0] << 16 | row[1]
    keyword = keyword_for_tag(tag)
    if row[0] < 4 or not dictionary_has_tag(tag):
        return "X"
    if keyword in OPTIONS:
        return OPTIONS[keyword]
    if given.VR in ("DA", "DT", "TM") and keyword not in table._NOT_SHIFTED:
        return "shifted"
    if given.VR == "SQ" and keyword in table._DESCENDED:
        return "cleaned"
    if given.VR in table.TEXT and table.is_descriptor(keyword):
        return "cleaned"
    # Of several the last one suits every kind of object.
    return columns_of(row).rsplit("/", maxsplit=1)[-1].replace("U*", "cleaned")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]:04X},{row[1]:04X}")
def test_each_row_of_table_e_1_1_shows_its_action(row: tuple[int, int]) -> None:
    given = of_row(row)
    left = object_of_all_rows().get(given.tag)

    for planted in ("quux", "xaverine", "90210", UID):
        assert planted not in str(left).lower()
    if row == ISSUER_OF_PATIENT_ID or given.keyword in ("SOPInstanceUID", *WRITTEN_BY_US):
        return
    action = expected(row, given)
    assert (left is None) == (action == "X" or (action == "kept" and left is None))
    match action:
        case "pseudonym":
            assert left.value == stand_in().pseudonym
        case "Z":
            assert not left.value
        case "D":
            assert is_dummy(left, given)
        case "U":
            assert left.value == MAPPING.uid(UID)
        case "shifted" if given.VR == "TM":
            assert left.value == given.value
        case "shifted":
            day = stand_in().shift(date(2019, 12, 31)).strftime("%Y%m%d")
            assert left.value == day + str(given.value)[8:]
        case "cleaned" if given.VR == "SQ":
            assert [item.get("ReferencedSOPInstanceUID") for item in left.value] == [
                MAPPING.uid(UID)
            ]
        case "cleaned":
            assert GONE in left.value


def test_the_actions_are_counted() -> None:
    dataset = patient()
    dataset.StudyDate = "20200101"
    dataset.PatientAddress = "1 Main Street"

    _, counts = header.deidentified_header(dataset, MAPPING, pixels_cleaned=False)

    assert counts[Action.SHIFT] == 1
    assert counts[Action.MAP_PATIENT] == 2


def test_dates_move_by_the_same_days_in_every_study_of_a_patient() -> None:
    first, second, other = patient(), patient(), patient()
    first.StudyDate, second.StudyDate, other.StudyDate = "20200101", "20200111", "20200101"
    first.AcquisitionDateTime = "20200101120000.25+0200"
    other.PatientID = "another"

    one, two, three = cleaned(first), cleaned(second), cleaned(other)

    shift = stand_in().offset_days
    assert shift != 0
    assert int(two.StudyDate) != int(one.StudyDate)
    assert one.StudyDate != "20200101"
    assert one.AcquisitionDateTime == f"{one.StudyDate}120000.25+0200"
    assert three.StudyDate != one.StudyDate
    assert one.PatientID == two.PatientID != three.PatientID


def test_objects_that_name_nobody_do_not_share_a_date_offset() -> None:
    days = set()
    for pixels in (b"\0\1", b"\0\2", b"\0\2"):
        nobody = Dataset()
        nobody.StudyDate, nobody.BitsAllocated, nobody.PixelData = "20200101", 8, pixels
        days.add(cleaned(nobody).StudyDate)

    assert len(days) == 2


@pytest.mark.parametrize(
    ("issuer", "is_same"),
    [(" city hospital ", True), ("County Hospital", False), ("", False)],
)
def test_an_id_is_the_same_patient_s_if_its_issuer_is(issuer: str, is_same: bool) -> None:
    one, other = patient(), patient()
    one.IssuerOfPatientID, other.IssuerOfPatientID = "City Hospital", issuer

    assert (cleaned(one).PatientID == cleaned(other).PatientID) is is_same


@pytest.mark.parametrize("keyword", ["PixelData", "FloatPixelData", "IconImageSequence"])
def test_pictures_within_items_go(keyword: str) -> None:
    item = Dataset()
    if keyword == "IconImageSequence":
        icon = Dataset()
        icon.PixelData = b"icon"
        item.IconImageSequence = Sequence([icon])
    else:
        item.add_new(keyword, "OW" if keyword == "PixelData" else "OF", b"icon")
    dataset = patient()
    dataset.ReferencedImageSequence = Sequence([item])

    (left,) = cleaned(dataset).ReferencedImageSequence

    assert keyword not in left


@pytest.mark.parametrize(
    ("keyword", "representation"),
    [
        ("SliceThickness", "LT"),
        ("PixelPaddingValue", "LO"),
        ("ICCProfile", "LT"),
        ("SOPClassUID", "LO"),
        ("PatientAge", "AS"),
        ("TimezoneOffsetFromUTC", "SH"),
        ("SeriesTime", "TM"),
        ("Modality", "CS"),
    ],
)
def test_a_value_that_is_not_of_its_attribute_s_kind_goes(
    keyword: str, representation: str
) -> None:
    dataset = patient()
    dataset[keyword] = DataElement(Tag(keyword), representation, "Quux^Xaverine")

    assert "Quux" not in str(cleaned(dataset))


@pytest.mark.parametrize("is_nested", [True, False])
def test_a_colour_profile_of_a_device_leaves_as_srgb(*, is_nested: bool) -> None:
    dataset, path = patient(), Dataset()
    place = path if is_nested else dataset
    place.ICCProfile = SRGB_PROFILE + b"Scanner 4711 serial Quux"
    dataset.OpticalPathSequence = [path]

    result = cleaned(dataset)

    left = result.OpticalPathSequence[0] if is_nested else result
    assert left.ICCProfile == SRGB_PROFILE


@pytest.mark.parametrize(
    ("photometric", "left"), [("RGB", "SRGB"), ("PALETTE COLOR", "SRGB"), ("MONOCHROME2", None)]
)
def test_no_object_says_two_things_of_its_colours(photometric: str, left: str | None) -> None:
    dataset = patient()
    dataset.PhotometricInterpretation = photometric
    dataset.ICCProfile, dataset.ColorSpace = b"a camera's", "ADOBERGB"

    result = cleaned(dataset)

    assert result.get("ColorSpace") == left
    assert ("ICCProfile" in result) == (left is not None)


def test_our_colour_profile_is_srgb() -> None:
    ours = ImageCms.ImageCmsProfile(io.BytesIO(SRGB_PROFILE))
    greys = Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * n) for n in range(3)])

    turned = ImageCms.profileToProfile(greys, ours, ImageCms.createProfile("sRGB"))

    assert turned is not None
    difference = np.asarray(turned, int) - np.asarray(greys, int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("keyword", ["DeidentificationMethod", "BitsAllocated"])
@pytest.mark.parametrize("value", [b"Quux", b"Quux" * 2])
def test_what_is_asked_of_a_header_may_be_unreadable(keyword: str, value: bytes) -> None:
    dataset = patient()
    tag = Tag(keyword)
    dataset[tag] = RawDataElement(tag, "FD", len(value), value, 0, False, True)

    left = cleaned(dataset)

    assert left.DeidentificationMethod == header.METHOD


def test_free_text_of_code_strings_loses_names_that_the_header_knows() -> None:
    dataset = patient()
    dataset.ImageType = ["DERIVED", "XAVERINE"]

    assert list(cleaned(dataset).ImageType) == ["DERIVED", GONE]


@pytest.mark.parametrize("keyword", ["SeriesDate", "DateOfLastCalibration"])
def test_a_date_that_is_written_as_text_is_moved_as_a_date(keyword: str) -> None:
    dataset = patient()
    dataset[keyword] = DataElement(Tag(keyword), "LO", "20191231")

    left = cleaned(dataset)[keyword]

    day = stand_in().shift(date(2019, 12, 31)).strftime("%Y%m%d")
    assert (left.VR, left.value) == ("DA", day)


def test_what_describes_in_a_sequence_that_gets_a_dummy_goes_whole() -> None:
    row = next(
        row
        for row in basic.D_TAGS
        if row[0] > 8 and expected(row, of_row(row)) == "D" and of_row(row).VR == "SQ"
    )
    item, inner = Dataset(), Dataset()
    inner.CodeMeaning = "north wing"
    item.CodeMeaning, item.ConceptNameCodeSequence = "south wing", Sequence([inner])
    dataset = patient()
    dataset.add(DataElement(row[0] << 16 | row[1], "SQ", Sequence([item])))

    assert "wing" not in str(cleaned(dataset))


@pytest.mark.parametrize("pixels_cleaned", [True, False])
@pytest.mark.parametrize("has_private", [True, False])
def test_an_object_claims_no_option_that_was_not_done(
    *, pixels_cleaned: bool, has_private: bool
) -> None:
    dataset = patient()
    if has_private:
        block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "IS", 1000)

    left, _ = header.deidentified_header(dataset, MAPPING, pixels_cleaned=pixels_cleaned)

    codes = {item.CodeValue for item in left.DeidentificationMethodCodeSequence}
    assert ("113101" in codes, "113102" in codes) == (pixels_cleaned, pixels_cleaned)
    assert ("113111" in codes) is has_private


def test_names_of_files_go() -> None:
    dataset = patient()
    dataset.ReferencedFileID = ["ARCHIVE", "WARD7"]

    assert "ReferencedFileID" not in cleaned(dataset)


@pytest.mark.parametrize("keyword", ["SOPClassUID", "SOPInstanceUID"])
def test_an_object_of_two_kinds_or_names_is_still_one_file(keyword: str) -> None:
    dataset = patient()
    dataset[keyword] = DataElement(Tag(keyword), "FD", [0.0, 1.0])

    written = header.read(header.write(cleaned(dataset)))

    assert isinstance(written.file_meta.MediaStorageSOPInstanceUID, UI)


def test_a_private_number_that_is_none_goes() -> None:
    dataset = patient()
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "LO", "Quux")

    assert not [tag for tag in cleaned(dataset).keys() if tag.is_private]  # noqa: SIM118


def test_a_private_creator_goes_with_what_it_reserved() -> None:
    dataset = patient()
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", 1000)
    dataset.private_block(0x0043, "QUUX CLINIC", create=True).add_new(0x39, "IS", 1000)

    left = cleaned(dataset)

    assert left[0x0019, 0x100C].value == 1000
    assert "QUUX" not in str(left)
    assert [tag.group for tag in left.keys() if tag.is_private] == [0x19, 0x19]  # noqa: SIM118


def test_what_stands_deep_in_sequences_is_cleaned() -> None:
    inner, middle, dataset = Dataset(), Dataset(), patient()
    inner.PatientName, inner.ReferencedSOPInstanceUID = "Quux^Xaverine", UID
    inner.TextValue = "Seen by Dr. Albert Frost on 2020-02-03 for Xaverine"
    middle.ContentSequence = [inner]
    dataset.ContentSequence = [middle]

    (item,) = cleaned(dataset).ContentSequence[0].ContentSequence

    assert item.PatientName == stand_in().pseudonym
    assert item.ReferencedSOPInstanceUID == MAPPING.uid(UID)
    assert item.TextValue == "Seen by on for"


def test_private_elements_go_but_for_numbers_on_the_safe_list() -> None:
    dataset = patient()
    block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    block.add_new(0x0C, "IS", "1000")
    block.add_new(0x0E, "LO", PLANTED)
    dataset.private_block(0x0029, "QUUX", create=True).add_new(1, "UN", b"Xaverine")

    private = [element for element in cleaned(dataset) if element.tag.is_private]

    assert [str(element.value) for element in private] == ["SIEMENS MR HEADER", "1000"]


def test_overlays_curves_icons_and_unknown_elements_go() -> None:
    dataset, icon = patient(), Dataset()
    icon.PixelData = b"Xaverine"
    dataset.IconImageSequence = [icon]
    dataset.add_new(0x60003000, "OW", b"Xaverine")
    dataset.add_new(0x60024000, "LT", PLANTED)
    dataset.add_new(0x50003000, "OW", b"Xaverine")
    dataset.add_new(0x00091234, "UN", b"Xaverine")
    dataset.add_new(0x00080F0F, "LO", PLANTED)
    dataset.add_new(0xFFFCFFFC, "OB", b"Xaverine")

    result = cleaned(dataset)

    left = {element.keyword for element in result if element.keyword not in dataset}
    assert left == {
        "SpecificCharacterSet",
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
        "LongitudinalTemporalInformationModified",
    }
    assert "IconImageSequence" not in result


def test_preamble_and_file_meta_information_are_ours() -> None:
    source = ct()
    source.preamble = b"Xaverine" * 16
    source.file_meta.SourceApplicationEntityTitle = "XAVERINE"
    source.file_meta.PrivateInformationCreatorUID = UI(UID)
    source.file_meta.PrivateInformation = b"Xaverine"

    written = header.write(cleaned(source))

    assert written[:128] == b"\0" * 128
    assert b"XAVERINE" not in written.upper()
    meta = header.read(written).file_meta
    assert meta.MediaStorageSOPInstanceUID == MAPPING.uid(source.SOPInstanceUID)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        (["ISO 2022 IR 6", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
        ("ISO_IR 144", "Люкceмбypг"),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_in_other_scripts_are_found_in_text(charset: Any, name: str) -> None:
    dataset = patient()
    dataset.SpecificCharacterSet = charset
    dataset.PatientName = name
    last = re.split(r"[=^]", name)[-1]
    dataset.ImageComments = f"CT {last} abdomen"

    result = header.read(header.write(cleaned(reread(dataset))))

    assert last not in str(result.ImageComments)
    assert "abdomen" in result.ImageComments
    assert result.PatientName == stand_in().pseudonym


def test_a_second_run_leaves_our_own_object_as_it_is() -> None:
    once = cleaned(ct())
    header.seal(once, MAPPING)
    written = header.write(once)

    again, counts = header.deidentified_header(header.read(written), MAPPING, pixels_cleaned=False)

    assert counts == {}
    assert header.write(again) == written


def test_a_seal_that_was_copied_onto_something_else_counts_for_nothing() -> None:
    once = cleaned(ct())
    header.seal(once, MAPPING)
    once.ImageComments = "Xaverine Quux, MRN: 4711"

    assert not header.is_sealed(once, MAPPING)
    assert "4711" not in cleaned(once).ImageComments


def test_a_document_is_rejected() -> None:
    dataset = patient()
    del dataset.Rows
    dataset.EncapsulatedDocument = b"%PDF Xaverine "

    with pytest.raises(Rejected) as refused:
        cleaned(dataset)
    assert refused.value.reason is Reason.NO_PIXELS


def test_an_object_nested_beyond_measure_is_rejected() -> None:
    dataset = patient()
    for _ in range(header.MAX_DEPTH + 2):
        outer = patient()
        outer.ContentSequence = [dataset]
        dataset = outer

    with pytest.raises(Rejected):
        cleaned(dataset)


def test_an_object_with_more_text_than_can_be_looked_through_is_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(header, "MAX_TEXT_CHARS", 30)
    dataset = patient()
    dataset.StudyDescription, dataset.SeriesDescription = "knee " * 4, "foot " * 4

    with pytest.raises(Rejected) as refused:
        cleaned(dataset)
    assert refused.value.reason is Reason.DECODE_FAILED


@pytest.mark.parametrize("told", ["Jane, born 12.3.1980", "MRN 90210", "19800312"])
def test_a_code_that_tells_what_looks_like_an_identifier_goes(told: str) -> None:
    dataset = patient()
    dataset.add_new("ImageType", "CS", ["DERIVED", "SECONDARY", told])

    assert list(cleaned(dataset).ImageType) == ["DERIVED", "SECONDARY", GONE]


def test_an_identity_that_cannot_be_read_is_none_and_is_quoted_nowhere() -> None:
    dataset = patient()
    dataset.add(DataElement(0x00080020, "DA", "20191231"))
    raw = reread(dataset)
    unreadable = RawDataElement(Tag(0x00100020), "FL", 6, b"QUUX12", 0, False, True)
    raw._dict[unreadable.tag] = unreadable

    assert patient_identity(raw)[0] != "id"


def test_no_value_of_a_header_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    dataset = patient()
    with warnings.catch_warnings(record=True):
        dataset.add_new("StudyInstanceUID", "UI", "Xaverine")
        raw = reread(dataset)
        caplog.clear()
        cleaned(raw)

    assert "Xaverine" not in caplog.text
