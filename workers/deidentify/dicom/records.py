"""DICOM objects without a picture: which of them the header rules clean fully.

They are released as objects alone. The appliance itself takes none of them in: there is nothing to
search for.
"""

from retrieval.errors import Reason, Rejected
from workers.deidentify.dicom import header
from workers.deidentify.dicom.mapping import Mapping
from workers.deidentify.dicom.pixels import Covered

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Everything in them is an attribute that the table has a rule for (PS3.4 table B.5-1). Not here:
# encapsulated documents (104.*), voices (9.4.*), raw data (66), surfaces, which may show a face
# (66.5, 68.*), and whatever we do not know.
_FAMILIES = (
    "88.",  # structured reports, key objects, dose reports
    "11.",  # presentation states
    "9.1.",  # electrocardiograms
    "9.2.",  # haemodynamic and
    "9.3.",  # electrophysiological waveforms
    "9.5.",  # pulse
    "9.6.",  # respiration
)
_CLASSES = frozenset(
    {
        "66.1",  # registrations and fiducials
        "66.2",
        "66.3",
        "67",  # real world values
        *(f"481.{number}" for number in range(3, 11)),  # structures, plans and treatment records
    }
)
# A picture or document in an object of another class.
_OTHER_CONTENT = (
    "Rows",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "EncapsulatedDocument",
)


def cleaned_record(content: bytes, mapping: Mapping) -> Covered:
    """Return a de-identified object that has no picture.

    content: a file the sandbox has parsed. Raises Rejected: NO_PIXELS for any other kind of object.
    """
    source = header.read(content)
    sop_class = str(source.get("SOPClassUID") or "").strip()
    name = sop_class.removeprefix(_STORAGE)
    is_known = sop_class.startswith(_STORAGE) and (
        name in _CLASSES or any(name.startswith(family) for family in _FAMILIES)
    )
    if not is_known or any(keyword in source for keyword in _OTHER_CONTENT):
        raise Rejected(Reason.NO_PIXELS)
    cleaned, counts = header.deidentified_header(source, mapping, pixels_cleaned=False)
    if counts:
        header.seal(cleaned, mapping)
    return Covered(header.write(cleaned), counts)
