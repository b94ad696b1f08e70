"""Files to decode: from the wheels of scikit-image and pydicom, or made here."""

import base64
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

# 64×32 pixels, the left half (200, 30, 40) and the right (10, 120, 220): no wheel we use can write
# HEIC, so these 517 bytes are kept.
HEIC = base64.b85decode(
    "0000SW^{RQXk}?*00000ZE0pPXk}?*ZE0a<0004fZDn*}000000000XXk=`10000000000aA{+70000000000000"
    "0000000B57=IV*mgE07O6l0RRC200001p#T8@00000003kF001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F"
    "#rGn01j|zbZr0t000010002}X>f9I0002pX>en20001XXm(>m0RwOV0058x000009`FGC{rLC*01pFT0096PKmiN"
    "^|NjGU00093kN^M!000939=ZZRVE_RDDnbDP18@KU0|1Z!00RI30{|YNAb|yz>g1-"
    "mxCm%4AOHXZ10VnZ0{|gn00967L;=Bbz=;3=025<xY;ta6Y<K_x01W^JfB*mh6lrsCWdHyG00000KmY&$KmY&$C}"
    "V74Z~y=RKmY&$0RR91AOHXW0RR91000000{{R2-~a#s0ssI25O8UDX#fBK00RgJ2mk;87-"
    "?{AVE_OC000000RRC7fdT^sga7~lY;9y=bN~PVU?>5v3E(*+B)|Xp|G)qCp?MG5TUP|*@gfJ`*_z+~$INvV*;q8`"
    "9CDi=;Q{A~Qag(|!nEI=3bArIeN&E-Z+X(YRbJ)*YdGe;b|=(TYmKJ!ilo92^HkU>(wr-y_5"
)


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
