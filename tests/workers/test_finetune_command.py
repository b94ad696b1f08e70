"""Private fine-tuning as an administrator runs it, on a small encoder of words and colours."""

import io
import json
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from retrieval import access, budget, certificates, index, keys, storage
from retrieval.budget import Mechanism
from retrieval.errors import ModelRefused, NoTextTower
from retrieval.models import (
    Certificate,
    Collection,
    EncoderVersion,
    Kind,
    Purpose,
    Reservation,
    Subject,
    Work,
)
from retrieval.queue import QueryVectors, ToEncode, Waiting
from retrieval.storage import Form
from tests import database
from tests.factories import make_collection, make_image, make_images, make_user, operator, png
from tests.retrieval.test_budget import make_officer
from tests.web.conftest import Log, Superuser, log
from workers import query, stages, tasks
from workers.encode import registry
from workers.encode.encoder import Pixels, Vectors
from workers.finetune import account, attack, private, residual, run, train
from workers.finetune.collection import gather, in_words, read_words
from workers.finetune.data import Private
from workers.finetune.verify import check

__all__ = ["log"]

IMAGES = 40
DELTA = 1e-3
DIGEST = "c" * 64


class Colours:
    """Two towers of 12 dimensions that agree roughly: pictures by colour, words by numbers."""

    name, dimensions, side, digest, licence = "colours", 12, 1, DIGEST, "none"

    def __init__(self) -> None:
        generator = np.random.default_rng(7)
        self.seen = generator.normal(size=(3, 12)).astype(np.float32)
        self.said = self.seen + 0.7 * generator.normal(size=(3, 12)).astype(np.float32)

    def preprocess(self, images: Sequence[Pixels]) -> torch.Tensor:
        return torch.tensor(np.stack([image.mean((0, 1)) for image in images])).float()

    def encode_images(self, batch: torch.Tensor) -> Vectors:
        return unit((batch.numpy() / 128 - 1) @ self.seen)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        return unit(np.stack([as_colour(text) / 128 - 1 for text in texts]) @ self.said)


def unit(rows: np.ndarray) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def as_colour(text: str) -> np.ndarray:
    numbers = [int(word) for word in text.split() if word.isdigit()]
    by_letters = [len(text) * 7 % 256, ord(text[-1]), ord(text[0])]
    return np.asarray(numbers[:3] if len(numbers) > 2 else by_letters, float)


@pytest.fixture
def colours(db: None, monkeypatch: pytest.MonkeyPatch) -> EncoderVersion:
    monkeypatch.setitem(registry._loaded, ("colours", None, DIGEST), Colours())
    with database.role("worker"):
        return index.register_encoder(name="colours", digest=DIGEST, dimensions=12, licence="none")


@pytest.fixture
def collection(colours: EncoderVersion) -> Collection:
    made = make_collection("ward")
    budget.set_budget(made, max_epsilon=6.0, delta=DELTA, actor=make_officer())
    return made


@pytest.fixture
def captions(collection: Collection, tmp_path: Path) -> Path:
    """Forty pictures by name, five names that nobody has, and the words of each."""
    colours = np.random.default_rng(1).integers(0, 256, (IMAGES, 3)).tolist()
    images = make_images(
        collection,
        Colours().encode_images(torch.tensor(colours).float()).tolist(),
        names=[f"ward/Roe-{number}.png" for number in range(IMAGES)],
    )
    lines = ["file\tcaption"]
    for number, (image, (red, green, blue)) in enumerate(zip(images, colours, strict=True)):
        storage.write_bytes(image, Form.PREVIEW, png(8, (red, green, blue)))
        lines.append(f"Roe-{number}.png\tsecret {red} {green} {blue}")
    lines += [f"nobody-{number}.png\tsecret 1 2 3" for number in range(5)]
    path = tmp_path / "captions.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def worker(captions: Path) -> Iterator[None]:
    with database.role("worker"):
        yield


def finetune(captions: Path, **changed: Any) -> dict[str, Any]:
    out = io.StringIO()
    arguments = {"epsilon": 3.0, "delta": DELTA, "captions": captions, "name": "better"}
    call_command("finetune", collection="ward", json=True, stdout=out, **arguments | changed)
    return dict(json.loads(out.getvalue()))


def stop(*_: object, **__: object) -> None:
    """What ^C does, wherever it strikes."""
    raise KeyboardInterrupt


def verify(path: str | Path, *arguments: str) -> dict[str, Any]:
    out = io.StringIO()
    try:
        call_command("finetune", "verify", str(path), "--json", *arguments, stdout=out)
    finally:
        document = dict(json.loads(out.getvalue() or "{}"))
    return document


def encode_all_due() -> None:
    for work_id in Work.objects.values_list("pk", flat=True):
        tasks.encode(work_id)


@pytest.mark.usefixtures("worker")
def test_a_private_encoder_is_trained_certified_filled_switched_to_and_rolled_back(
    captions: Path, tmp_path: Path, log: Log
) -> None:
    told = finetune(captions)
    better = EncoderVersion.objects.get(name="better")
    assert (told["unit"], told["unknown_files"]) == ("image", 5)
    assert told["epsilon"] <= 3.0
    assert told["units"] + told["held_out_units"] == IMAGES
    assert (better.live, better.base.name) == (False, "colours")  # type: ignore[union-attr]

    key = tmp_path / "key.pem"
    key.write_text(keys.public_key_pem())
    checked = verify(told["certificate_file"], "--public-key", str(key))
    assert checked["verified"]
    assert checked["recomputed"] == pytest.approx(checked["claimed"], rel=0.01)

    with pytest.raises(CommandError, match="fill it"):
        call_command("encoder", "switch", "better", stdout=io.StringIO())
    call_command("encoder", "fill", "better", stdout=io.StringIO())
    encode_all_due()
    call_command("encoder", "switch", "better", stdout=io.StringIO())
    assert index.live_encoder() == better
    (answer,) = query.encode([Waiting("", 1, "", [ToEncode(words="10 200 30")])])
    assert isinstance(answer, QueryVectors)
    assert answer.encoder == "better"
    registry._loaded.pop(("better", better.source, better.digest))
    loaded = registry.load("better", source=better.source, digest=better.digest)
    assert np.array_equal(loaded.encode_texts(["1 2 3"]), Colours().encode_texts(["1 2 3"]))
    call_command("encoder", "switch", "colours", stdout=io.StringIO())
    assert index.live_encoder().name == "colours"
    (settled,) = log(Kind.BUDGET_SETTLED)
    assert settled["epsilon"] == pytest.approx(told["epsilon"], abs=1e-4)


@pytest.mark.usefixtures("worker")
def test_overspending_is_refused_before_anything_is_trained(
    captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "release", lambda *_: pytest.fail("a gradient was taken"))

    with pytest.raises(CommandError, match="the budget is 6"):
        finetune(captions, epsilon=7.0)
    with pytest.raises(CommandError, match="δ must be less than"):
        finetune(captions, delta=0.5)

    assert not EncoderVersion.objects.filter(name="better").exists()


@pytest.mark.usefixtures("worker")
def test_an_interrupted_training_goes_on_once_under_what_it_reserved(
    captions: Path, monkeypatch: pytest.MonkeyPatch, superuser: Superuser
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attack, "audit", stop)
        for _ in range(2):
            with pytest.raises(CommandError, match="interrupted"):
                finetune(captions, objective="per-example")
    rows = "SELECT state, resumed_at IS NOT NULL FROM retrieval_reservation ORDER BY reserved_at"
    assert superuser.execute(rows).fetchall() == [("open", True)]

    # It was resumed once: now it is charged in full, and a new one is reserved.
    with pytest.raises(CommandError, match="the budget is 6"):
        finetune(captions, objective="per-example", epsilon=5.5)
    assert superuser.execute(rows).fetchall() == [("void", True)]


@pytest.mark.usefixtures("worker")
def test_a_resumed_training_ends_with_a_certificate_and_is_charged_once(
    captions: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(attack, "audit", stop)
        with pytest.raises(CommandError, match="interrupted"):
            finetune(captions)

    told = finetune(captions)

    assert told["resumed"]
    assert len(log(Kind.BUDGET_RESERVED)) == len(log(Kind.BUDGET_RESUMED)) == 1
    assert verify(told["certificate_file"])["verified"]


@pytest.mark.usefixtures("worker")
def test_a_training_that_is_killed_between_its_steps_goes_on_with_the_same_epsilon_and_steps(
    captions: Path, monkeypatch: pytest.MonkeyPatch, log: Log, superuser: Superuser
) -> None:
    connection.close()
    child = os.fork()
    if not child:  # dies in its fourth step, as the kernel kills
        torch.set_num_threads(1)
        steps, release = iter(range(100)), train.release

        def killed(*arguments: Any) -> torch.Tensor:
            if next(steps) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            return release(*arguments)

        monkeypatch.setattr(train, "release", killed)
        finetune(captions, objective="per-example")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    claimed = "SELECT steps_claimed, state FROM retrieval_reservation"
    assert superuser.execute(claimed).fetchall() == [(4, "open")]
    honest, taken = train.release, list[Mechanism]()

    def counted(*arguments: Any) -> torch.Tensor:
        taken.append(arguments[3])
        return honest(*arguments)

    monkeypatch.setattr(train, "release", counted)

    told = finetune(captions, objective="per-example")

    private_steps = [one for one in taken if one.noise_multiplier > 1e-3]  # the twin's apart
    assert (told["resumed"], len(private_steps), told["steps"]) == (True, 6, 10)
    assert superuser.execute(claimed).fetchall() == [(10, "settled")]
    (reserved,), (settled,) = log(Kind.BUDGET_RESERVED), log(Kind.BUDGET_SETTLED)
    assert settled["epsilon"] == reserved["epsilon"]
    assert log(Kind.BUDGET_RESUMED)[0]["steps_claimed"] == 4
    assert verify(told["certificate_file"])["verified"]


@pytest.mark.usefixtures("worker")
def test_a_training_that_fails_is_charged_in_full_and_leaves_no_encoder(
    captions: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    monkeypatch.setattr(attack, "epsilon_at_least", lambda *_, **__: 40.0)

    with pytest.raises(CommandError, match="canaries prove") as refused:
        finetune(captions)

    assert "\n" not in str(refused.value)
    assert not EncoderVersion.objects.filter(name="better").exists()
    assert len(log(Kind.BUDGET_VOIDED)) == 1
    assert not list(private.training_folder().glob("*.training"))


@pytest.mark.usefixtures("worker")
def test_neither_words_nor_file_names_reach_the_log(
    captions: Path, superuser: Superuser, capfd: pytest.CaptureFixture[str]
) -> None:
    finetune(captions)

    kept = str(superuser.execute("SELECT details FROM retrieval_auditevent").fetchall())
    kept += Certificate.objects.get().document + "".join(capfd.readouterr())
    assert "secret" not in kept
    assert "Roe" not in kept


@pytest.mark.usefixtures("worker")
def test_somebody_without_a_grant_does_not_train(captions: Path) -> None:
    with database.role("web"):
        make_user("stranger", is_superuser=True)
    for name in ("stranger", "nobody"):
        with pytest.raises(CommandError, match="there is no such user"):
            finetune(captions, user=name)


def signed(fields: dict[str, Any], key: Ed25519PrivateKey) -> str:
    signature = key.sign(certificates._canonical(fields)).hex()
    return json.dumps({"fields": fields, "signature": signature, "public_key": ""})


@pytest.mark.usefixtures("worker")
def test_a_certificate_that_says_less_than_its_mechanisms_does_not_verify(
    captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(finetune(captions)["certificate_file"])
    document = json.loads(path.read_text())
    wrong = tmp_path / "wrong.json"
    altered = document | {"fields": document["fields"] | {"epsilon": 0.1}}
    wrong.write_text(json.dumps(altered))
    with pytest.raises(CommandError, match="not as the appliance signed it"):
        verify(wrong)

    wrong.write_text(signed(document["fields"], Ed25519PrivateKey.generate()))
    with pytest.raises(CommandError, match="not as the appliance signed it"):
        verify(wrong)


# What an auditor refuses though the appliance's own key signed it: the field and the reason.
CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"sampler": "shuffled"}, "drawn by another sampler"),
    ({"clipping": "per batch"}, "not clipped per unit: no unit's share"),
    ({"clipping": "per group"}, "not clipped per unit: no unit's share"),
    ({"objective": "in_batch"}, "not known to bound"),
    ({"objective": "grouped_contrastive"}, "not clipped per unit and group"),
    ({"clipping_norm": 0.0}, "not those of its clipping"),
    ({"clipping_norm": 0.1}, "gives a sensitivity of 0.1"),
    ({"group_clipping_norm": 0.1}, "not those of its clipping"),
    ({"sensitivity": 0.1}, "gives a sensitivity of 0.5"),
    ({"noise_deviation": 1e-9}, "its noise should deviate by"),
    ({"noise_multiplier": 99.0}, "its noise or its sample rate"),
    ({"sample_rate": 0.5}, "its noise or its sample rate"),
    ({"steps": 2}, "its mechanisms have 1 steps"),
    ({"mechanisms": []}, "tells of no mechanism"),
    ({"mechanisms": "none"}, "mechanisms that are none"),
    ({"mechanisms": [{"noise_multiplier": 0, "sample_rate": 1, "steps": 1}]}, "that are none"),
    ({"unit": "pixel"}, "unit of privacy"),
    ({"units": 100000}, "δ is not below"),
    ({"units": 0}, "its units is no count"),
    ({"units": True}, "its units is no count"),
    ({"delta": 0.5}, "δ is not below"),
    ({"collection_delta": 1e-9}, "or above the collection's"),
    ({"epsilon": 1.0}, "claims ε 1;"),
    ({"cross_check_epsilon": 1.0}, "second accountant"),
    ({"cross_check": "ours"}, "second accountant is unknown"),
    ({"accountant": "moments"}, "prv counts it"),
    ({"collection_epsilon": 0.5}, "of the collection; its mechanisms give"),
    ({"collection_mechanisms": []}, "does not tell the collection's"),
    ({"collection_mechanisms": [[]]}, "not among the collection's"),
    ({"attack": {"epsilon_lower_bound": 9.0}}, "not what an attack tells"),
    ({"utility_after": {"recall@10": 7.0}}, "above 1"),
    ({"utility_after": {"recall@1": 0.7}}, "different measures"),
    ({"promise": "Protects everybody."}, "promises something else"),
    ({"not_covered_by_epsilon": []}, "what ε does not cover"),
    ({"data_digest": "secret"}, "no digest"),
    ({"subject_group": "all"}, "its subject_group"),
    ({"more": 1}, "no certificate has"),
]


@pytest.mark.usefixtures("worker")
def test_a_certificate_whose_fields_contradict_each_other_is_refused_with_the_reason(
    captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(finetune(captions)["certificate_file"])
    monkeypatch.setattr(account, "account", counted_once())
    fields, key = json.loads(path.read_text())["fields"], keys.signing_key()
    attack_above = fields["attack"] | {"epsilon_lower_bound": 9.0}

    def problem(changed: dict[str, Any]) -> str:
        return check(signed(changed, key), keys.public_key()).problem

    assert problem(fields) == ""
    for change, reason in [*CONTRADICTIONS, ({"attack": attack_above}, "proves a larger ε")]:
        assert reason in problem(fields | change), change
    for name in fields:
        rest = {other: value for other, value in fields.items() if other != name}
        assert problem(rest) == f"it lacks {name}"
        if name not in ("subject_group", "mechanisms", "collection_mechanisms"):
            assert problem(fields | {name: None}), name


def counted_once() -> Any:
    """The accountants are slow, and asked the same here again and again."""
    found: dict[object, account.Account] = {}
    honest = account.account

    def counted(mechanisms: Sequence[Mechanism], delta: float) -> account.Account:
        key = (tuple(mechanisms), delta)
        found[key] = found.get(key) or honest(mechanisms, delta)
        return found[key]

    return counted


@pytest.mark.usefixtures("worker")
def test_a_certificate_tells_all_that_was_charged_on_the_collection(
    captions: Path, tmp_path: Path
) -> None:
    first = finetune(captions, epsilon=1.0)
    second = finetune(captions, epsilon=2.0, name="second")

    fields = json.loads(Path(second["certificate_file"]).read_text())["fields"]
    assert verify(second["certificate_file"])["verified"]
    assert [len(told) for told in fields["collection_mechanisms"]] == [2]
    assert fields["collection_epsilon"] > max(fields["epsilon"], first["epsilon"])
    # What was charged afterwards changes nothing in the first one's certificate.
    fields = json.loads(Path(first["certificate_file"]).read_text())["fields"]
    assert [len(told) for told in fields["collection_mechanisms"]] == [1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("name\tcaption\na\tb\n", "must name the columns"),
        ("file\tcaption\na\t\n", "line 2 lacks"),
        ("file\tcaption\n", "holds none"),
        ("file\tcaption\nsomebody.png\tsecret\n", "too few"),
    ],
)
@pytest.mark.usefixtures("worker")
def test_a_file_of_captions_that_is_none_is_one_line(
    captions: Path, content: str, reason: str
) -> None:
    captions.write_text(content)
    with pytest.raises(CommandError, match=reason) as refused:
        finetune(captions)
    assert "secret" not in str(refused.value)
    assert not Reservation.objects.exists()


@pytest.mark.usefixtures("worker")
def test_an_encoder_without_words_is_refused_with_the_reason(
    captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mute(*_: object) -> Vectors:
        raise NoTextTower("images only")

    monkeypatch.setattr(Colours, "encode_texts", mute)
    with pytest.raises(CommandError, match="reads images only"):
        finetune(captions)


def test_captions_are_read_as_spreadsheets_quote_them(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    rows = ['a.jpg\t"a dog , in ""snow"" ."', 'b.jpg\t"one mark', "c.jpg\tplain"]
    path.write_text("\n".join(["file\tcaption", *rows]), encoding="utf-8")

    assert read_words(path) == {
        "a.jpg": ['a dog , in "snow" .'],
        "b.jpg": ['"one mark'],
        "c.jpg": ["plain"],
    }


def test_a_subjects_images_are_one_unit_and_never_both_trained_on_and_measured(
    collection: Collection, tmp_path: Path
) -> None:
    encoder, lines = Colours(), ["file\tlabel"]
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        subjects = [Subject(collection=collection, pseudonym=f"p{n}") for n in range(4)]
        Subject.objects.bulk_create(subjects)
    for number in range(10):
        (vector,) = encoder.encode_images(torch.tensor([[number * 25.0, 10.0, 99.0]]))
        subject = None if number == 9 else subjects[number % 4]
        name = f"{number}.png"
        image = make_image(collection, vector.tolist(), name=name, subject=subject)
        lines += [f"{image.pk if number >= 8 else name}\tfinding {number % 3}"] * (number != 7)
    path = tmp_path / "labels.tsv"
    path.write_text("\n".join(lines), encoding="utf-8")
    version = EncoderVersion.objects.get(name="colours")
    apart = str(subjects[0].pk)

    with database.role("worker"):
        found = gather(collection.pk, version, encoder, read_words(path), is_held_out=apart.__eq__)

    assert (found.private.unit, found.private.units, found.held_out_units) == ("subject", 3, 1)
    assert len(found.private.images) == 5  # 1 and 5, 2 and 6, 3: nothing is said of 7
    assert len(found.held_out.images) == 3  # 0, 4 and 8 by its id
    assert (found.without_subject, found.without_words) == (1, 1)


def test_radiographs_with_a_finding_each_are_trained_towards_prototypes_by_subject(
    collection: Collection, tmp_path: Path
) -> None:
    """As chest radiographs come: a file of labels, patients with several images, known classes."""
    encoder, lines = Colours(), ["file\tlabel"]
    findings = ("pneumonia", "effusion", "no finding")
    with access.acting_as(operator(), Purpose.ADMINISTRATION):
        subjects = [Subject(collection=collection, pseudonym=f"p{n}") for n in range(20)]
        Subject.objects.bulk_create(subjects)
    for number in range(IMAGES):
        finding = findings[number % 3]
        colour = as_colour(finding) + number % 7
        (vector,) = encoder.encode_images(torch.tensor(colour[None]).float())
        name = f"{number}.dcm"
        make_image(collection, vector.tolist(), name=name, subject=subjects[number // 2])
        lines.append(f"{name}\t{finding}")
    (tmp_path / "labels.tsv").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "classes.txt").write_text("\n".join(findings), encoding="utf-8")

    with database.role("worker"):
        told = finetune(
            tmp_path / "labels.tsv", classes=tmp_path / "classes.txt", objective="grouped"
        )

    assert (told["unit"], told["images"]) == ("subject", IMAGES)
    assert told["units"] + told["held_out_units"] == 20
    assert verify(told["certificate_file"])["verified"]
    fields = json.loads(Path(told["certificate_file"]).read_text())["fields"]
    assert fields["clipping"] == "per unit and group"
    assert fields["sensitivity"] == fields["clipping_norm"] + 2 * fields["group_clipping_norm"]


def test_the_prototypes_of_the_fields_classes_are_the_first_anchors() -> None:
    encoder = Colours()
    words = residual.public_vectors(encoder, residual.PUBLIC_WORDS[:30])
    prototypes = residual.prototypes(encoder, ["effusion", "effusion", "mass"])
    by_hand = encoder.encode_texts(in_words("mass")).mean(0)

    anchors = residual.space_of(words, classes=prototypes).anchors

    assert np.allclose(prototypes[1], by_hand, atol=1e-6)
    assert np.allclose(anchors[1], by_hand / np.linalg.norm(by_hand), atol=1e-5)
    assert np.allclose(anchors[2:], words, atol=1e-5)
    assert len(residual.prototypes(encoder, [])) == 0


def test_a_name_of_several_images_is_refused_as_one_would_take_anothers_place(
    collection: Collection, captions: Path
) -> None:
    make_image(collection, [1.0] * 12, name="elsewhere/Roe-3.png")
    with database.role("worker"), pytest.raises(CommandError, match="several images: name those"):
        finetune(captions)


@pytest.mark.usefixtures("worker")
def test_a_trained_encoder_without_its_certificate_answers_nothing(
    captions: Path, superuser: Superuser
) -> None:
    finetune(captions)
    better = EncoderVersion.objects.get(name="better")
    stages.encoder_of(better)

    with pytest.raises(CommandError, match="is not imported"):
        call_command("encoder", "import", better.source, "--name", "washed")
    assert not EncoderVersion.objects.filter(name="washed").exists()

    # As a superuser of the database changes the rows, past `index.switch`.
    better.epsilon = better.base = None
    with pytest.raises(ModelRefused, match="its row denies it"):
        stages.encoder_of(better)
    superuser.execute("DELETE FROM retrieval_certificate")
    with pytest.raises(ModelRefused, match="no valid certificate"):
        stages.encoder_of(EncoderVersion.objects.get(name="better"))


@pytest.mark.usefixtures("worker")
def test_an_encoder_whose_certificate_contradicts_itself_is_not_switched_to(
    captions: Path, superuser: Superuser
) -> None:
    finetune(captions)
    fields = json.loads(Certificate.objects.get().document)["fields"]
    forged = signed(fields | {"sampler": "shuffled"}, keys.signing_key())
    superuser.execute("UPDATE retrieval_certificate SET document = %s", [forged])

    with pytest.raises(CommandError, match="another sampler"):
        call_command("encoder", "switch", "better", stdout=io.StringIO())


@pytest.mark.usefixtures("worker")
def test_the_certificates_data_digest_confirms_no_guess_of_the_data(
    captions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watched(data: Private, *arguments: Any, **options: Any) -> run.Result:
        seen.append(data.digest)
        return run.finetune(data, *arguments, **options)

    monkeypatch.setattr(private, "finetune", watched)
    told = finetune(captions)

    fields = json.loads(Path(told["certificate_file"]).read_text())["fields"]
    assert fields["data_digest"] == keys.keyed_hash(seen[0], use="digests of training data")


def test_every_objective_starts_from_the_encoder_as_it_is() -> None:
    encoder = Colours()
    space = residual.space_of(residual.public_vectors(encoder, residual.PUBLIC_WORDS[:50]))
    bare = space.projection(torch.zeros(space.rank, 12))
    images = torch.from_numpy(encoder.encode_images(torch.rand(5, 3) * 255))
    assert torch.allclose(bare.images(images), images, atol=1e-6)
    for name in residual.OBJECTIVES:
        plan = residual.plan_for(name, space, epsilon=3.0, delta=1e-4, units=100)
        assert plan.delta == 1e-4
