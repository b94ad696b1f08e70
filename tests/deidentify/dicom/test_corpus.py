"""A sample of the planted corpus on every change; the whole is measured (docs/benchmarks.md)."""

from workers.deidentify.dicom import corpus, header
from workers.deidentify.dicom.mapping import Mapping

MAPPING = Mapping(b"k" * 32)


def deidentified(content: bytes) -> bytes:
    cleaned, _ = header.deidentified_header(header.read(content), MAPPING, pixels_cleaned=False)
    header.seal(cleaned, MAPPING)
    return header.write(cleaned)


def test_nothing_planted_is_left_and_what_should_stay_stays() -> None:
    score = corpus.score(corpus.build(1, every=6), deidentified)

    assert min(score.due[action] for action in ("text_removed", "text_retained")) > 50
    rates = {action: rate for action, rate in score.rates().items() if rate is not None}
    must = ("text_removed", "uid_changed", "uid_consistent", "patid_consistent", "pixels_retained")
    assert {action: rates[action] for action in must} == dict.fromkeys(must, 1.0)
    assert min(rates.values()) >= 0.99


def test_a_corpus_is_the_same_for_the_same_seed() -> None:
    first, again = (next(corpus.build(5)).content for _ in range(2))

    assert first == again


def test_a_rule_that_does_nothing_scores_nothing() -> None:
    score = corpus.score(corpus.build(1, every=20), lambda content: content)

    rates = score.rates()
    assert rates["text_removed"] == rates["uid_changed"] == rates["date_shifted"] == 0.0
    assert rates["tag_retained"] == 1.0
