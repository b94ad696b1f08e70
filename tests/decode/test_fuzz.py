"""No damage to a file makes its answer anything but pixels or a typed reason, in time.

The long run over the same damages is `python -m tests.decode.fuzz FILES SEED`.
"""

import time
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retrieval import media
from retrieval.errors import Reason, Rejected
from tests.decode import mutations, samples
from workers.decode import sandbox, wire
from workers.decode.sandbox import decode

ANSWER_S = 5.0
VIDEOS = {"video/mp4", "video/webm", "video/x-msvideo"}
KNOWN = {*wire.MEDIA_TYPES, *VIDEOS, media.ZIP}
SEEDS = mutations.seeds()
ASTRONAUT = samples.picture("astronaut.png")

names = st.sampled_from(sorted(SEEDS))
randoms = st.randoms(use_true_random=False)
# The decoder is started by the first example, and the machine may be busy: the time that counts
# is asserted below.
quickly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def is_answered(content: bytes) -> bool:
    started = time.monotonic()
    try:
        decoded = decode(content)
    except Rejected as exc:
        return exc.reason in {*wire.CHILD_REASONS, *sandbox._REPLY_REASONS.values()} | {
            Reason.EMPTY_FILE
        }
    finally:
        assert time.monotonic() - started <= ANSWER_S
    return decoded.pixels.ndim == 3 and decoded.media_type in wire.MEDIA_TYPES


@given(head=st.binary(max_size=200))
@settings(quickly, max_examples=300)
def test_whatever_the_bytes_sniffing_gives_a_known_type_or_none(head: bytes) -> None:
    assert media.sniff(head) in {*KNOWN, None}


@given(name=names, other=names, random=randoms)
@settings(quickly, max_examples=200)
def test_a_damaged_head_is_sniffed_as_a_known_type_or_none(
    name: str, other: str, random: Random
) -> None:
    content = mutations.damaged(SEEDS[name], SEEDS[other], random)

    assert media.sniff(content[: media.HEAD_BYTES]) in {*KNOWN, None}


def test_every_seed_is_sniffed_as_what_the_decoder_finds() -> None:
    found = {}
    for name, content in SEEDS.items():
        try:
            found[name] = decode(content).media_type
        except Rejected:
            continue

    assert len(found) > len(SEEDS) // 2
    assert set(found.values()) == set(wire.MEDIA_TYPES)
    assert {name: media.sniff(SEEDS[name][: media.HEAD_BYTES]) for name in found} == found


@given(content=st.binary(max_size=2000))
@settings(quickly, max_examples=30)
def test_arbitrary_bytes_are_answered(content: bytes) -> None:
    assert is_answered(content)


@given(name=names, body=st.binary(max_size=2000), random=randoms)
@settings(quickly, max_examples=30)
def test_arbitrary_bytes_behind_a_true_beginning_are_answered(
    name: str, body: bytes, random: Random
) -> None:
    assert is_answered(SEEDS[name][: random.randint(4, 400)] + body)


@given(name=names, other=names, random=randoms)
@settings(quickly, max_examples=100)
def test_a_damaged_file_is_answered(name: str, other: str, random: Random) -> None:
    assert is_answered(mutations.damaged(SEEDS[name], SEEDS[other], random))


def test_the_decoder_outlives_damaged_files() -> None:
    random = Random(11)  # noqa: S311 - to be repeated
    decode(ASTRONAUT)
    before = sandbox._zygote
    for name in random.sample(sorted(SEEDS), 30):
        assert is_answered(mutations.damaged(SEEDS[name], ASTRONAUT, random))
        assert decode(SEEDS["png"]).pixels.shape == (96, 96, 3)

    assert sandbox._zygote is before


def test_a_length_beyond_the_end_is_damage_and_not_a_lack_of_memory() -> None:
    content = bytearray(samples.dicom("CT_small.dcm"))
    at = content.index(b"\xe0\x7f\x10\x00OW") + 8
    content[at : at + 4] = b"\xf0\xff\xff\x7f"

    assert decode(bytes(content)).pixels.shape == (128, 128, 3)

    content[132 + 8 :] = b"\x02\0\x01\0OB\0\0\xf0\xff\xff\x7f" + bytes(999)

    with pytest.raises(Rejected, match=Reason.NOT_AN_IMAGE.value):
        decode(bytes(content))
