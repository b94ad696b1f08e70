import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from retrieval import access, index
from retrieval.models import Collection, EncoderVersion, Image, Work
from tests import database
from tests.factories import make_collection, make_encoder, make_image
from workers import stages
from workers.encode.device import best_device
from workers.encode.precision import Precision, fastest_here

pytestmark = pytest.mark.usefixtures("indexed")


@pytest.fixture
def indexed(db: None) -> Iterator[None]:
    """One live encoder, one that waits, one indexed image; then the worker's role."""
    make_encoder(name="first")
    make_image(make_collection(), [1, 0, 0])
    make_encoder(name="second")
    with database.role("worker"):
        yield


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("encoder", *arguments, stdout=out)
    return out.getvalue()


def test_the_list_tells_what_is_live_and_what_is_missing() -> None:
    first, second = run("list").splitlines()

    assert "\tlive\t" in first
    assert "\t0.0% covered\t" in second


def test_filling_makes_each_missing_image_due_once() -> None:
    assert run("fill", "second") == "1 images to encode\n"
    assert run("fill", "second") == "0 images to encode\n"


def test_images_from_before_a_collection_found_parts_are_told_and_filled() -> None:
    """And so are those that another detector has looked through."""
    collection = Collection.objects.get()
    live = index.live_encoder()
    with access.processing(collection.pk):
        image = Image.objects.get()

    def looked_through(parts_from: str) -> tuple[str, str]:
        with access.processing(collection.pk):
            index.store(image, np.eye(3)[0], encoder=live, parts_from=parts_from)
            Work.objects.all().delete()
        told, _ = run("list").splitlines()
        return told.split("\t")[2], run("fill", "first")

    assert run("fill", "first") == "0 images to encode\n"
    with database.role("owner"):
        Collection.objects.update(finds_parts=True)
    assert looked_through("") == ("live, parts 0.0%", "1 images to encode\n")
    assert looked_through("corners") == ("live, parts 0.0%", "1 images to encode\n")
    assert looked_through("corners lean 0.25 ward:0123:0.3") == (
        "live, parts 0.0%",
        "1 images to encode\n",
    )
    assert looked_through("corners lean 0.25") == ("live, parts 100.0%", "0 images to encode\n")
    with database.role("owner"):
        Collection.objects.update(finds_parts=False)
    assert looked_through("corners lean 0.25") == ("live", "1 images to encode\n")


def test_an_encoder_with_missing_images_is_not_switched_to() -> None:
    with pytest.raises(CommandError, match="fill it"):
        run("switch", "second")


@pytest.mark.parametrize("verb", ["fill", "switch"])
def test_an_unknown_encoder_is_one_line(verb: str) -> None:
    with pytest.raises(CommandError) as refused:
        run(verb, "unknown")

    assert "\n" not in str(refused.value)


def test_a_folder_without_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as refused:
        run("import", str(tmp_path), "--name", "third")

    assert "\n" not in str(refused.value)


def test_what_ships_is_imported_by_name_and_says_what_it_does_not_read() -> None:
    assert "images only" in run("import", "--name", "cloister-classic")
    assert "\tApache-2.0\n" in run("list")


def test_a_digest_is_given_for_a_folder_only() -> None:
    with pytest.raises(CommandError, match="digests in its code"):
        run("import", "--name", "cloister-classic", "--sha256", "0" * 64)


def test_a_cheaper_version_is_registered_beside_its_base() -> None:
    run("import", "--name", "cloister-embedded")

    assert (
        "no instructions"
        in run("reduce", "cloister-embedded", "--to", "quick", "--precision", "bf16")
        or fastest_here(best_device()) is Precision.BF16
    )

    base, quick = (EncoderVersion.objects.get(name=n) for n in ("cloister-embedded", "quick"))
    assert quick.digest != base.digest
    assert stages.encoder_of(quick).digest == quick.digest
    with pytest.raises(CommandError, match="there is an encoder named"):
        run("reduce", "cloister-embedded", "--to", "quick")
