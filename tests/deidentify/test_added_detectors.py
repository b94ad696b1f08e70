"""An operator's detector joins ours, or nothing starts."""

import hashlib
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval.errors import ModelRefused
from tests.decode import samples
from tests.decode.samples import PICTURES
from workers.deidentify.faces import union
from workers.deidentify.faces.added import read_detectors

NOBODY_THERE = samples.noise(64, 64) // 16


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def record(field: int, content: bytes | str | int) -> bytes:
    """One field of a protocol buffer."""
    if isinstance(content, int):
        return varint(field << 3) + varint(content)
    raw = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(raw)) + raw


def tensor(name: str, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(record(1, record(1, side)) for side in shape)
    return record(1, name) + record(2, record(1, record(1, 1) + record(2, dimensions)))


def constant(name: str, values: np.ndarray) -> bytes:
    """A node that gives the same float32 values for any picture."""
    content = b"".join(record(1, side) for side in values.shape)
    content += record(2, 1) + record(9, struct.pack(f"<{values.size}f", *values.ravel()))
    value = record(1, "value") + record(5, content) + record(20, 4)
    return record(1, record(2, name) + record(4, "Constant") + record(5, value))


def onnx(outputs: dict[str, np.ndarray], side: int = 64) -> bytes:
    """A network that always gives `outputs`, whatever the (1, 3, side, side) picture."""
    graph = b"".join(constant(name, values.astype(np.float32)) for name, values in outputs.items())
    graph += record(2, "g") + record(11, tensor("input", (1, 3, side, side)))
    graph += b"".join(record(12, tensor(name, v.shape)) for name, v in outputs.items())
    return record(1, 8) + record(7, graph) + record(8, record(2, 13))


def yunet(side: int = 64, seen_at: int | None = 0) -> bytes:
    """A YuNet that sees one face of 32 pixels in cell `seen_at` of its coarsest grid."""
    outputs: dict[str, np.ndarray] = {}
    for stride in (8, 16, 32):
        cells = (side // stride) ** 2
        score = np.zeros((1, cells, 1))
        if stride == 32 and seen_at is not None:
            score[0, seen_at] = 1
        outputs |= {f"cls_{stride}": score, f"obj_{stride}": score}
        outputs[f"bbox_{stride}"] = np.tile([0.5, 0.5, 0.0, 0.0], (1, cells, 1))
    return onnx(outputs, side)


def listed(folder: Path, model: bytes, **changed: object) -> Path:
    """A list with one detector, whose file holds `model`."""
    (folder / "one.onnx").write_bytes(model)
    entry = {
        "name": "ward",
        "file": "one.onnx",
        "sha256": hashlib.sha256(model).hexdigest(),
        "kind": "yunet",
        "licence": "MIT",
        "threshold": 0.5,
    } | changed
    rows = (
        f"{key} = {value!r}" if isinstance(value, str) else f"{key} = {value}"
        for key, value in entry.items()
        if value is not None
    )
    file = folder / "detectors.toml"
    file.write_text("[[detector]]\n" + "\n".join(rows), encoding="utf-8")
    return file


def test_what_an_added_detector_sees_is_a_face_of_the_union(tmp_path: Path) -> None:
    (face,) = union(added=listed(tmp_path, yunet())).detect(NOBODY_THERE)

    assert (face.box, face.detector) == ((0, 0, 32, 32), "ward")
    assert union().detect(NOBODY_THERE) == []


def test_an_added_detector_cannot_be_more_than_ours_and_it(tmp_path: Path) -> None:
    """It adds faces; it takes none away."""
    with Image.open(PICTURES / "astronaut.png") as image:
        pixels = np.asarray(image.convert("RGB").crop((130, 20, 330, 220)))

    ours = union().detect(pixels)
    theirs = union(added=listed(tmp_path, yunet(seen_at=None))).detect(pixels)

    assert len(ours) == 1
    assert [face.box for face in theirs] == [face.box for face in ours]


@pytest.mark.parametrize(
    "changed",
    [
        {"sha256": "0" * 64},
        {"sha256": "ab"},
        {"file": "elsewhere.onnx"},
        {"kind": "retinaface"},
        {"kind": "yolox"},
        {"kind": "haar"},
        {"licence": ""},
        {"licence": None},
        {"threshold": 0},
        {"threshold": 1.5},
        {"threshold": "high"},
        {"unknown": "key"},
        {"finds": "people"},
    ],
    ids=str,
)
def test_a_detector_that_is_not_as_its_entry_says_is_refused(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    with pytest.raises(ModelRefused):
        read_detectors(listed(tmp_path, yunet(), **changed))


@pytest.mark.parametrize(
    "model", [b"no network", onnx({"cls_8": np.zeros((1, 64, 1))})], ids=["bytes", "other outputs"]
)
def test_what_is_no_network_of_its_kind_is_refused(tmp_path: Path, model: bytes) -> None:
    with pytest.raises(ModelRefused):
        read_detectors(listed(tmp_path, model))


@pytest.mark.parametrize(
    "content", ["", "detector = 1", "[[detector]\n", "[other]\na = 1"], ids=str
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "detectors.toml"
    file.write_text(content, encoding="utf-8")

    with pytest.raises(ModelRefused):
        read_detectors(file)


def test_a_list_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused):
        union(added=tmp_path / "detectors.toml")


def decoded(kind: str, model: bytes, folder: Path) -> np.ndarray:
    """The one box, left, top, right, bottom, score, that a network sees in a grey picture."""
    (detector,) = read_detectors(listed(folder, model, kind=kind, threshold=0.5))
    (rows,) = detector.look(NOBODY_THERE[None], 0.5)
    assert rows.shape == (1, 5)
    return np.asarray(rows[0])


def test_a_yunet_says_where_from_its_cells_corner_and_how_large_as_a_logarithm(
    tmp_path: Path,
) -> None:
    """Wu et al. 2023: half a cell from the second cell of the coarsest grid."""
    assert decoded("yunet", yunet(seen_at=1), tmp_path) == pytest.approx([32, 0, 64, 32, 1])


def test_a_retinaface_moves_its_anchors_by_tenths_and_scales_them_by_fifths(tmp_path: Path) -> None:
    """Deng et al. 2020: 64 + 16 + 4 cells with two anchors each; the first of the finest at 16."""
    moves, scores = np.zeros((1, 168, 4)), np.zeros((1, 168, 2))
    at = 2 * (3 * 8 + 4)  # row 3, column 4: its middle is at (36, 28)
    scores[0, at, 1] = 0.9
    moves[0, at] = [5, 0, np.log(2) / 0.2, 0]  # half an anchor to the right, twice as wide

    found = decoded("retinaface", onnx({"boxes": moves, "scores": scores}), tmp_path)

    assert found == pytest.approx([36 + 8 - 16, 28 - 8, 36 + 8 + 16, 28 + 8, 0.9])


def yolox(classes: int = 80) -> bytes:
    """A YOLOX that sees one of its first class, 32 by 16 pixels about (20, 36), and a second."""
    answers = np.zeros((1, 64 + 16 + 4, 5 + classes))
    answers[0, 4 * 8 + 2] = [0.5, 0.5, np.log(4), np.log(2), 0.9, 0.9, *[0.0] * (classes - 1)]
    answers[0, 70, 4] = answers[0, 70, -1] = 1.0
    return onnx({"output": answers})


def test_a_yolox_has_its_first_class_covered_and_no_other(tmp_path: Path) -> None:
    assert decoded("yolox", yolox(), tmp_path) == pytest.approx([4, 28, 36, 44, 0.81])


def test_what_a_person_detector_sees_is_covered_as_a_whole(tmp_path: Path) -> None:
    detector = union(added=listed(tmp_path, yolox(), kind="yolox"))

    (person,) = detector.detect(NOBODY_THERE)

    assert (person.box, person.detector) == ((4, 28, 32, 16), "ward")


def test_one_that_finds_objects_sees_every_class_and_covers_none(tmp_path: Path) -> None:
    file = listed(tmp_path, yolox(), kind="yolox", finds="objects")

    (detector,) = read_detectors(file, finds="objects")

    (rows,) = detector.look(NOBODY_THERE[None], 0.5)
    assert sorted(rows[:, 4].round(2)) == pytest.approx([0.81, 1.0])
    assert read_detectors(file) == ()
    with pytest.raises(ModelRefused, match="must be one of yolox"):
        read_detectors(listed(tmp_path, yunet(), finds="objects"), finds="objects")
