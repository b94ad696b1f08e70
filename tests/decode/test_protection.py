"""Nothing is decoded by a process that is less confined than it was asked to be."""

import os
import resource
import sys

import pytest
from celery.signals import worker_init

from retrieval.errors import ServicesUnavailable
from tests.decode import samples
from workers import app
from workers.decode import confine, sandbox, zygote
from workers.decode.limits import Limits
from workers.decode.protection import Protection, try_out
from workers.decode.sandbox import decode

ASTRONAUT = samples.picture("astronaut.png")


@pytest.fixture
def no_decoder_yet() -> None:
    """The next decode starts a decoder process of its own."""
    if sandbox._zygote is not None:
        sandbox._discard(sandbox._zygote)


def answering(protection: int) -> tuple[str, ...]:
    """A decoder process that says how well it is confined, and no more."""
    script = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).send(bytes([{}]))"
    return (sys.executable, "-c", script.format(protection))


def test_what_is_tried_out_holds_on_this_host() -> None:
    found = try_out(network_left=False)

    assert found is not None
    assert found >= Protection.FILTERED


def test_without_the_filter_the_attempts_succeed_or_fail_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confine, "refuse_all_but_decoding", lambda: None)

    assert try_out(network_left=True) is None


def test_without_the_memory_limit_nothing_is_protected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: None)

    assert try_out(network_left=True) is None


def test_without_landlock_the_filter_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confine, "leave_files", lambda: False)

    assert try_out(network_left=True) is Protection.FILTERED


@pytest.mark.usefixtures("no_decoder_yet")
@pytest.mark.parametrize(("found", "wanted"), [(0, "filtered"), (1, "landlocked"), (2, "isolated")])
def test_a_host_that_protects_less_than_is_asked_for_decodes_nothing(
    found: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOISTER_SANDBOX", wanted)
    monkeypatch.setattr(sandbox, "_ZYGOTE", answering(found))

    with pytest.raises(ServicesUnavailable):
        decode(ASTRONAUT)


@pytest.mark.usefixtures("no_decoder_yet")
def test_a_worker_that_is_protected_less_than_is_asked_for_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CLOISTER_SANDBOX", "isolated")
    monkeypatch.setattr(sandbox, "_ZYGOTE", answering(Protection.LANDLOCKED))
    worker_starts = [receiver() for _, receiver in worker_init.receivers]

    assert app.refuse_to_decode_unprotected in worker_starts
    with pytest.raises(SystemExit, match="CLOISTER_SANDBOX"):
        app.refuse_to_decode_unprotected()


@pytest.mark.usefixtures("no_decoder_yet")
@pytest.mark.parametrize("name", ["none", "", "0"])
def test_no_protection_can_be_asked_for_that_is_lower(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOISTER_SANDBOX", name)

    with pytest.raises(ServicesUnavailable):
        decode(ASTRONAUT)


def test_a_child_less_confined_than_the_one_tried_out_decodes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(zygote, "confine", lambda limits: False)
    content, result = os.memfd_create("content"), os.memfd_create("result")
    pid = os.fork()
    if pid == 0:
        zygote.run_child(content, result, Limits(), Protection.LANDLOCKED, None)

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    os.close(content)
    os.close(result)


def test_decoder_and_decoded_file_share_the_memory_limit() -> None:
    decode(ASTRONAUT)
    assert sandbox._zygote is not None
    with open(f"/proc/{sandbox._zygote.process.pid}/statm", encoding="ascii") as file:
        own_bytes = int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    assert own_bytes + Limits().memory_bytes <= 512_000_000
