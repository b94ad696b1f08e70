import argparse
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError
from rich.console import Console
from rich.progress import Progress

from retrieval import access, index, keys
from retrieval.audit.checkpoint import read_public_key
from retrieval.errors import CertificateRefused, CloisterError
from retrieval.models import Collection, EncoderVersion, Reads

HELD_OUT_SHARE = 0.2
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
MAX_CERTIFICATE_BYTES = 1024 * 1024
DIGITS = 4


class Command(BaseCommand):
    help = (
        "Train a head of an encoder on a collection under differential privacy, on the running "
        "appliance: reserves ε, trains, attacks, certifies. The new encoder is then filled and "
        "switched to like any other. `verify` re-computes a certificate's ε."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--collection", metavar="NAME")
        parser.add_argument("--epsilon", type=float, metavar="E", help="of this training")
        parser.add_argument("--delta", type=float, metavar="D", help="below 1/(units trained on)")
        parser.add_argument(
            "--objective",
            default="least-squares",
            help="least-squares, per-example or grouped",
        )
        parser.add_argument(
            "--captions",
            type=Path,
            metavar="FILE",
            help="tab-separated: file and caption, or file and label; a file's name or its id",
        )
        parser.add_argument(
            "--held-out",
            default=str(HELD_OUT_SHARE),
            metavar="SHARE|FILE",
            help="units to measure on and never to train on: a share, or a file of their ids",
        )
        parser.add_argument(
            "--public-texts",
            type=Path,
            metavar="FILE",
            help="lines of the field's language that nobody needs protecting from",
        )
        parser.add_argument(
            "--classes",
            type=Path,
            metavar="FILE",
            help="lines: the field's classes, public; images are told apart from each's prototype",
        )
        parser.add_argument("--base", metavar="ENCODER", help="the live one unless told another")
        parser.add_argument("--name", help="of the new encoder")
        parser.add_argument("--as", dest="user", default=access.OPERATOR, metavar="USER")
        parser.add_argument("--json", action="store_true", help="Print one JSON document.")
        verbs = parser.add_subparsers(dest="verb", metavar="verify", required=False)
        verify = verbs.add_parser("verify", help="check a certificate, offline")
        verify.add_argument("certificate", type=Path)
        verify.add_argument("--public-key", type=Path, metavar="FILE")
        verify.add_argument("--json", action="store_true", default=argparse.SUPPRESS)

    def handle(self, *, verb: str | None, **options: Any) -> None:
        try:
            if verb == "verify":
                self.verify(options["certificate"], options["public_key"], options["json"])
            else:
                access.require_bound_role()
                self.train(options)
        except CloisterError as error:
            raise CommandError(str(error)) from error
        except (OperationalError, InterfaceError) as error:
            raise CommandError("the database does not answer; is the appliance up?") from error
        except KeyboardInterrupt as error:
            raise CommandError("interrupted; the same command goes on with it, once") from error

    def train(self, options: Mapping[str, Any]) -> None:
        # Imported on use: `verify` and the help need no torch.
        from workers.encode import registry  # noqa: PLC0415
        from workers.finetune import collection as gathering  # noqa: PLC0415
        from workers.finetune import private, residual  # noqa: PLC0415

        _refuse_nonsense(options, residual.OBJECTIVES)
        collection = _find_collection(options["collection"])
        actor = access.find_trainer(options["user"], collection)
        base = _find_base(options["base"])
        name = options["name"] or f"{base.name}-{collection.pk}-e{options['epsilon']:g}"
        _refuse_taken_name(name)
        is_held_out = _held_out(options["held_out"])
        words = gathering.read_words(options["captions"])
        public = residual.PUBLIC_WORDS
        if options["public_texts"]:
            public = tuple(gathering.read_lines(options["public_texts"]))
        classes = gathering.read_lines(options["classes"]) if options["classes"] else []
        with private.alone_on(collection):
            encoder = registry.load(base.name, source=base.source or None, digest=base.digest)
            with Progress(console=Console(stderr=True), transient=True) as bar:
                reading = bar.add_task("reading words")
                gathered = gathering.gather(
                    collection.pk,
                    base,
                    encoder,
                    words,
                    is_held_out=is_held_out,
                    progress=lambda done, of: bar.update(reading, completed=done, total=of),
                )
                public_texts = residual.public_vectors(encoder, public)
            self.stderr.write(_of_gathered(gathered))
            prototypes = residual.prototypes(encoder, classes)
            space = residual.space_of(public_texts, classes=prototypes)
            plan = residual.plan_for(
                options["objective"],
                space,
                epsilon=options["epsilon"],
                delta=options["delta"],
                units=gathered.private.units,
            )
            trained = private.train(
                gathered,
                plan,
                space,
                public_texts=public_texts,
                collection=collection,
                base=base,
                encoder=encoder,
                name=name,
                actor=actor,
            )
        document = _as_document(trained, gathered)
        if options["json"]:
            self.stdout.write(json.dumps(document))
            return
        recall, attack = document["recall@10"], document["attack"]
        self.stdout.write(
            f"encoder {trained.encoder.pk} ({name}): ε {document['epsilon']} at"
            f" δ {document['delta']:g}, per {document['unit']}, {document['units']} units;"
            f" recall@10 on held-out queries {recall['before']} → {recall['after']};"
            f" attacks prove ε ≥ {attack['epsilon_lower_bound']}\n"
            f"certificate: {trained.file}\n"
            f"next: encoder fill {name}, then encoder switch {name}"
        )

    def verify(self, path: Path, key_file: Path | None, as_json: bool) -> None:
        from workers.finetune.verify import check  # noqa: PLC0415

        checked = check(
            _read(path),
            keys.public_key() if key_file is None else read_public_key(_read(key_file)),
        )
        again = checked.again
        if as_json:
            document = {
                "verified": not checked.problem,
                "reason": checked.problem or None,
                "claimed": checked.fields.get("epsilon"),
                "recomputed": again and again.epsilon,
                "cross_check": again and again.cross_check_epsilon,
                "accountant": again and f"{again.accountant}, {again.accountant_version}",
                "fields": dict(checked.fields),
            }
            self.stdout.write(json.dumps(document, default=str))
        else:
            for line in _page(checked.fields):
                self.stdout.write(line)
            if again is not None:
                self.stdout.write(
                    f"ε claimed {checked.fields['epsilon']:.6g}, recomputed {again.epsilon:.6g}"
                    f" ({again.accountant}, {again.accountant_version}),"
                    f" {again.cross_check_epsilon:.6g} (dp-accounting)"
                )
        if checked.problem:
            raise CertificateRefused(f"the certificate does not hold: {checked.problem}")


def _refuse_nonsense(options: Mapping[str, Any], objectives: tuple[str, ...]) -> None:
    for name in ("collection", "epsilon", "delta"):
        if options[name] is None:
            raise CommandError(f"--{name} is needed")
    if options["captions"] is None:
        raise CommandError("--captions FILE is needed: words to train the pictures towards")
    if options["objective"] not in objectives:
        raise CommandError(f"no such objective; there are {', '.join(objectives)}")
    if not (math.isfinite(options["epsilon"]) and options["epsilon"] > 0):
        raise CommandError("--epsilon must be a number above 0")
    if not 0 < options["delta"] < 1:
        raise CommandError("--delta must lie between 0 and 1")


def _find_collection(name: str) -> Collection:
    try:
        return Collection.objects.get(name=name)
    except Collection.DoesNotExist as error:
        raise CommandError(f"no collection named {name!r}") from error


def _find_base(name: str | None) -> EncoderVersion:
    """A trained encoder is no base: what its own training told would have to be added up."""
    if name is None:
        live = index.live_encoder()
        return live.base or live
    try:
        found = EncoderVersion.objects.get(name=name)
    except EncoderVersion.DoesNotExist as error:
        raise CommandError(f"no encoder named {name!r}") from error
    if found.reads != Reads.PICTURES:
        raise CommandError(f"encoder {found.pk} reads no pictures")
    if found.learned_from_images:
        raise CommandError(f"encoder {found.pk} was trained here itself: name the one it rests on")
    return found


def _refuse_taken_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise CommandError("an encoder's name holds letters, digits, dots, dashes; 100 at most")
    if EncoderVersion.objects.filter(name=name).exists():
        raise CommandError("there is an encoder of that name: give another by --name")


def _held_out(told: str) -> Any:
    from workers.finetune.collection import in_share, read_lines  # noqa: PLC0415

    try:
        share = float(told)
    except ValueError:
        listed = frozenset(read_lines(Path(told)))
        return listed.__contains__
    if not 0 < share < 1:
        raise CommandError("--held-out must lie between 0 and 1")
    return in_share(share)


def _of_gathered(gathered: Any) -> str:
    return (
        f"{gathered.images} images, {gathered.private.units} units to train on,"
        f" {gathered.held_out_units} held out; left out: {gathered.without_words} images without"
        f" words, {gathered.without_subject} without a subject; names in the file that are"
        f" unknown: {gathered.unknown}"
    )


def _as_document(trained: Any, gathered: Any) -> dict[str, Any]:
    result, certificate = trained.result, trained.certificate
    fields = json.loads(certificate.document)["fields"]
    return {
        "encoder": trained.encoder.name,
        "certificate": str(certificate.pk),
        "certificate_file": str(trained.file),
        "epsilon": round(fields["epsilon"], DIGITS),
        "delta": fields["delta"],
        "collection_epsilon": round(fields["collection_epsilon"], DIGITS),
        "unit": fields["unit"],
        "units": fields["units"],
        "steps": fields["steps"],
        "noise_multiplier": fields["noise_multiplier"],
        "recall@10": {
            "before": round(result.recall_at_10_before, DIGITS),
            "after": round(result.recall_at_10_after, DIGITS),
        },
        "attack": {k: round(v, DIGITS) for k, v in fields["attack"].items()},
        "twin_attack": {k: round(v, DIGITS) for k, v in fields["twin_attack"].items()},
        "resumed": trained.resumed,
        "images": gathered.images,
        "held_out_units": gathered.held_out_units,
        "without_words": gathered.without_words,
        "without_subject": gathered.without_subject,
        "unknown_files": gathered.unknown,
    }


def _page(fields: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in sorted(fields.items()):
        inner = sorted(value.items()) if isinstance(value, dict) else [("", value)]
        for part, one in inner:
            shown = one if isinstance(one, str) else json.dumps(one)
            lines.append(f"{name}{'.' if part else ''}{part}: {shown}")
    return lines


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_CERTIFICATE_BYTES:
            raise CommandError("that file is too large to be a certificate or a key")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError("the certificate or the key cannot be read") from error
