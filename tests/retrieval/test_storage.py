import io
import uuid

import pytest
from django.conf import settings

from retrieval import keys, storage
from retrieval.errors import StorageCorrupt
from retrieval.models import Image
from retrieval.storage import CHUNK_BYTES, Form

pytestmark = pytest.mark.usefixtures("services")


def an_image() -> Image:
    image_id = uuid.uuid4()
    data_key, wrapped = keys.new_data_key(image_id)
    name = storage.seal_source_name("Jane Roe.png", data_key=data_key)
    return Image(pk=image_id, wrapped_key=wrapped, sealed_name=name)


@pytest.mark.parametrize(
    "size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES]
)
def test_what_is_stored_is_read_again(size: int) -> None:
    image, content = an_image(), bytes(range(256)) * (size // 256 + 1)

    storage.write_bytes(image, Form.ORIGINAL, content[:size])

    assert storage.read(image, Form.ORIGINAL) == content[:size]


def test_nothing_of_the_content_or_its_name_is_on_the_disk() -> None:
    image = an_image()

    storage.write_bytes(image, Form.ORIGINAL, b"a face, unmistakably" * 100)

    sealed = storage.path_of(image.pk, Form.ORIGINAL).read_bytes()
    assert b"unmistakably" not in sealed
    assert b"Jane" not in bytes(image.sealed_name)
    assert storage.source_name(image) == "Jane Roe.png"


def cut_the_tail(sealed: bytes) -> bytes:
    return sealed[: -(CHUNK_BYTES + 16)]


def drop_a_chunk(sealed: bytes) -> bytes:
    return sealed[:16] + sealed[16 + CHUNK_BYTES + 16 :]


def swap_chunks(sealed: bytes) -> bytes:
    size = CHUNK_BYTES + 16
    first, second = sealed[16 : 16 + size], sealed[16 + size : 16 + 2 * size]
    return sealed[:16] + second + first + sealed[16 + 2 * size :]


def flip_a_bit(sealed: bytes) -> bytes:
    return sealed[:1000] + bytes([sealed[1000] ^ 1]) + sealed[1001:]


@pytest.mark.parametrize("alter", [cut_the_tail, drop_a_chunk, swap_chunks, flip_a_bit])
def test_an_altered_object_does_not_open(alter: object) -> None:
    image = an_image()
    storage.write_bytes(image, Form.ORIGINAL, b"x" * (3 * CHUNK_BYTES))
    path = storage.path_of(image.pk, Form.ORIGINAL)
    path.write_bytes(alter(path.read_bytes()))  # type: ignore[operator]

    with pytest.raises(StorageCorrupt):
        storage.read(image, Form.ORIGINAL)


def test_an_object_opens_neither_as_another_image_nor_in_another_form() -> None:
    image, other = an_image(), an_image()
    storage.write_bytes(image, Form.ORIGINAL, b"original")
    sealed = storage.path_of(image.pk, Form.ORIGINAL).read_bytes()
    for image_id, form in ((other.pk, Form.ORIGINAL), (image.pk, Form.PREVIEW)):
        storage.path_of(image_id, form).parent.mkdir(parents=True, exist_ok=True)
        storage.path_of(image_id, form).write_bytes(sealed)

    with pytest.raises(StorageCorrupt):
        storage.read(image, Form.PREVIEW)
    other.wrapped_key = image.wrapped_key
    with pytest.raises(StorageCorrupt):
        storage.read(other, Form.ORIGINAL)


def test_a_failed_write_leaves_the_earlier_object() -> None:
    image = an_image()
    storage.write_bytes(image, Form.PREVIEW, b"earlier")

    def breaks_off() -> object:
        yield b"later"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        storage.write(
            image.pk,
            Form.PREVIEW,
            breaks_off(),  # type: ignore[arg-type]
            data_key=keys.unwrap_data_key(bytes(image.wrapped_key), image.pk),
        )
    assert storage.read(image, Form.PREVIEW) == b"earlier"
    assert len(list(storage.path_of(image.pk, Form.PREVIEW).parent.iterdir())) == 1


def test_a_key_file_is_never_replaced(tmp_path: object) -> None:
    path = settings.CLOISTER_KEY_FILE
    before = path.read_bytes()

    assert keys.create_key_file(path) is False
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o077 == 0


def test_a_large_file_is_not_held_whole_while_it_is_stored() -> None:
    image_id = uuid.uuid4()
    data_key, _ = keys.new_data_key(image_id)
    held = 0

    class Counting(io.RawIOBase):
        left = 64

        def read(self, size: int = -1) -> bytes:
            nonlocal held
            held = max(held, size)
            self.left -= 1
            return b"x" * size if self.left > 0 else b""

    chunks = storage.io_chunks(Counting())  # type: ignore[arg-type]
    storage.write(image_id, Form.ORIGINAL, chunks, data_key=data_key)

    assert held == CHUNK_BYTES
