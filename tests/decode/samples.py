"""Files to decode: from the wheels of scikit-image and pydicom, or made here."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom
import skimage
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

PICTURES = Path(skimage.__file__).parent / "data"
DICOM_DATA = Path(pydicom.__file__).parent / "data"
DICOM_FILES = DICOM_DATA / "test_files"


def picture(name: str) -> bytes:
    return (PICTURES / name).read_bytes()


def dicom(name: str) -> bytes:
    return (DICOM_FILES / name).read_bytes()


def encode(pixels: npt.NDArray[np.generic], format_name: str = "PNG", **options: bool) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format_name, **options)
    return out.getvalue()


def noise(height: int, width: int, *, channels: int = 3) -> npt.NDArray[np.uint8]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def png_bomb(width: int, height: int, *, bit_depth: int, colour: int) -> bytes:
    """A PNG of zeros: bit_depth 1 and colour 0 is black and white, 8 and 2 is RGB."""
    bits = bit_depth * {0: 1, 2: 3}[colour]
    row = b"\0" * (1 + -(-width * bits // 8))
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", packed), (b"IEND", b""))
    )


def progressive_jpeg_with_many_scans(side: int, scans: int) -> bytes:
    """Repeat the last scan of a progressive JPEG: few bytes, much work."""
    flat = encode(np.full((side, side, 3), 90, np.uint8), "JPEG", progressive=True)
    start = flat.rindex(b"\xff\xda")
    return flat[:start] + flat[start:-2] * scans + flat[-2:]


def grey_dicom(pixels: npt.NDArray[np.uint16], **attributes: object) -> bytes:
    """A CT slice with its values as given; attributes replace those of the header."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = "1.2.3"
    dataset.Modality = "CT"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    dataset.PixelData = pixels.astype("<u2").tobytes()
    for name, value in attributes.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, enforce_file_format=True)
    return out.getvalue()


def bare_dicom(*, implicit: bool, little: bool) -> bytes:
    """CT_small.dcm as some archives kept it: the data set alone."""
    whole = pydicom.dcmread(DICOM_FILES / "CT_small.dcm")
    dataset = Dataset()
    dataset.update({element.tag: element for element in whole if not element.tag.is_private})
    if not little:
        words = np.frombuffer(whole.PixelData, "<i2")
        dataset.PixelData = words.astype(">i2").tobytes()
    out = io.BytesIO()
    pydicom.dcmwrite(out, dataset, implicit_vr=implicit, little_endian=little, force_encoding=True)
    return out.getvalue()
