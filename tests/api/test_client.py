"""The client against a real server: what docs/api.md shows is what these do."""

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import pytest
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection

from appliance.api.client import Cloister, Refused
from appliance.management.commands.audit import take_checkpoint
from retrieval.audit import checkpoint, merkle
from retrieval.models import Collection, Image, ServiceAccount
from tests.factories import make_image, make_token, operator, png
from tests.web.conftest import jpeg

pytestmark = pytest.mark.usefixtures("encoder_answers")


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def process_request_thread(self, request: object, client_address: object) -> None:
        super().process_request_thread(request, client_address)  # type: ignore[arg-type]  # a socket
        connection.close()


class Quiet(WSGIRequestHandler):
    def log_message(self, *_args: object) -> None:
        """Addresses are not for the test's output."""


@pytest.fixture
def address(db: None) -> Iterator[str]:
    with make_server("127.0.0.1", 0, WSGIHandler(), Server, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def cloister(address: str, account: ServiceAccount, collection: Collection) -> Cloister:
    return Cloister(address, make_token(account, collection)[1], purpose="TREAT")


def test_the_client_searches_and_looks(
    cloister: Cloister, image: Image, collection: Collection
) -> None:
    tagged = make_image(collection, [0.0, 1.0, 0.0], tags=["left knee"])

    (hit,) = cloister.search("anything", limit=1).hits
    assert hit.image == str(image.pk)
    assert [h.image for h in cloister.search(image=png(), limit=1).hits] == [hit.image]
    assert cloister.similar(hit.image).hits[0].image == hit.image
    assert cloister.preview(hit.image) == jpeg()
    assert cloister.image(hit.image).state == "indexed"
    assert cloister.image(str(tagged.pk)).tags == ["left knee"]
    assert [c.id for c in cloister.collections()] == [collection.pk]


def test_the_client_hands_in_small_files_and_large_ones(
    cloister: Cloister, collection: Collection, tmp_path: Path
) -> None:
    job = cloister.start_import(collection.pk)
    large = tmp_path / "large.png"
    large.write_bytes(png(40) + b"\0" * 9_000_000)

    small, refused = cloister.send(job, [('a "b".png', png()), ("b.txt", b"no")])
    whole = cloister.send_large(job, large)
    cloister.finish_import(job)

    assert (small.state, refused.reason, whole.state) == ("received", "not_an_image", "received")
    progress = cloister.progress(job)
    assert (progress.received, progress.refused, progress.pending) == (3, 1, 2)
    assert {f["image"] for f in cloister.files(job)} == {small.image, whole.image}


def test_the_client_evaluates_by_ids(cloister: Cloister, image: Image) -> None:
    told = cloister.evaluate({"wrist": [str(image.pk)]})

    assert told["measures"]["recall@1"] == 1.0


def test_the_client_proves_that_a_search_is_in_the_log(
    cloister: Cloister, image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "CLOISTER_CHECKPOINTS", tmp_path)
    answer = cloister.search("anything")
    with pytest.raises(Refused) as early:
        cloister.prove(answer.audit)
    assert early.value.status == 409
    take_checkpoint(operator())

    proof = cloister.prove(answer.audit)

    head = checkpoint.read(proof.checkpoint, checkpoint.read_public_key(proof.public_key))
    leaf = hashlib.sha256(b"\0" + proof.entry.encode()).digest()
    path = [bytes.fromhex(node) for node in proof.path]
    assert merkle.verify_inclusion(leaf, proof.index, proof.size, path, head.root)
    assert str(image.pk) in proof.entry
    assert answer.audit in [event["number"] for event in cloister.events()]
    with pytest.raises(Refused):
        cloister.prove(1)  # somebody else's


def test_the_client_rotates_its_token(cloister: Cloister, image: Image) -> None:
    before = dict(cloister._headers)
    cloister.rotate()

    assert cloister._headers != before
    assert cloister.search("anything").hits
    cloister._headers = before
    with pytest.raises(Refused) as refused:
        cloister.search("anything")
    assert refused.value.status == 401
