from pathlib import Path
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import InterfaceError, OperationalError
from rich.console import Console

from retrieval import access, audit, index, keys, outbox, upkeep
from retrieval.errors import CertificateRefused, CloisterError, ModelRefused, NoTextTower
from retrieval.models import Certificate, Collection, EncoderVersion, Kind, Reads, Stage, Work
from workers.deidentify.report import rules_digest
from workers.encode import regions
from workers.encode.encoder import Encoder
from workers.encode.registry import REPORTS, SHIPPED, is_private_head, load

PRECISIONS = ("bf16", "int8")


class Command(BaseCommand):
    help = (
        "Models: list them, import one from a folder, make a cheaper version, fill it in the "
        "shadow of the live one, switch to it, and retire what is no longer used. Needs the "
        "running appliance."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        verbs.add_parser("list")
        importing = verbs.add_parser(
            "import", help="a folder with an open_clip model or a timm backbone as safetensors"
        )
        importing.add_argument(
            "folder", type=Path, nargs="?", help=f"none for what ships: {', '.join(SHIPPED)}"
        )
        importing.add_argument("--name", required=True)
        importing.add_argument("--sha256", help="that its publisher gives for the weights' file")
        reducing = verbs.add_parser(
            "reduce", help="another version of an encoder, whose images cost less to compute"
        )
        reducing.add_argument("name")
        reducing.add_argument("--to", required=True, metavar="NEW", help="its name")
        reducing.add_argument(
            "--precision", choices=PRECISIONS, help="default: what this machine computes fastest"
        )
        for verb in ("fill", "switch", "retire"):
            verbs.add_parser(verb).add_argument("name")

    def handle(self, *, verb: str, **options: Any) -> None:
        try:
            access.require_bound_role()
            if verb == "list":
                self.list()
            elif verb == "import":
                self.import_from(options["folder"], options["name"], options["sha256"])
            elif verb == "reduce":
                self.reduce(find_encoder(options["name"]), options["to"], options["precision"])
            elif verb == "fill":
                self.fill(find_encoder(options["name"]))
            elif verb == "switch":
                self.switch(find_encoder(options["name"]))
            else:
                self.retire(find_encoder(options["name"]))
        except CloisterError as error:
            raise CommandError(str(error)) from error
        except (OperationalError, InterfaceError) as error:
            raise CommandError("the database does not answer; is the appliance up?") from error

    def list(self) -> None:
        chosen = regions.how_chosen(regions.object_detectors())
        for version in EncoderVersion.objects.order_by("pk"):
            state = "live" if version.live else f"{index.coverage(version):.1%} covered"
            with_parts = index.coverage_of_parts(version, parts_from=chosen)
            if with_parts is not None:
                state += f", parts {with_parts:.1%}"
            if version.retired_at is not None:
                state = "retired"
            self.stdout.write(f"{version.name}\t{version.dimensions}\t{state}\t{version.licence}")

    def import_from(self, folder: Path | None, name: str, sha256: str | None) -> None:
        if folder is not None and is_private_head(folder):
            raise ModelRefused("what was trained on images here is not imported: it is certified")
        if folder is None and sha256 is not None:
            raise ModelRefused("what ships with Cloister has its digests in its code")
        source = "" if folder is None else str(folder.resolve())
        encoder = load(name, source=source or None, weights_sha256=sha256)
        version = index.register_encoder(
            name=name,
            digest=encoder.digest,
            dimensions=encoder.dimensions,
            licence=encoder.licence,
            source=source,
            reads=Reads.REPORTS if name == REPORTS else Reads.PICTURES,
        )
        record(version, "imported")
        if not reads_words(encoder):
            self.stdout.write("it reads images only: while it is live, words are refused")
        self.stdout.write(f"encoder {version.pk} is registered; next: fill it, then switch to it")

    def reduce(self, version: EncoderVersion, name: str, wanted: str | None) -> None:
        # Its libraries take seconds to load: the other verbs do not wait for them.
        from workers.encode import precision  # noqa: PLC0415
        from workers.encode.device import best_device  # noqa: PLC0415

        index.require_in_use(version)
        if version.reads == Reads.REPORTS:
            raise ModelRefused("only what reads pictures is made cheaper")
        if version.learned_from_images:
            raise ModelRefused("what learned from images is certified as it is")
        if name in SHIPPED or EncoderVersion.objects.filter(name=name).exists():
            raise ModelRefused(f"there is an encoder named {name!r}")
        fastest = precision.fastest_here(best_device())
        chosen = precision.Precision(wanted) if wanted else fastest
        base = load(version.name, source=version.source or None, digest=version.digest)
        folder = Path(settings.CLOISTER_STORE) / "models" / uuid4().hex
        with Console(stderr=True).status(f"making it in {chosen}"):
            config = precision.write(folder, base, base_source=version.source, precision=chosen)
        cheaper = index.register_encoder(
            name=name,
            digest=precision.digest_of(config),
            dimensions=base.dimensions,
            licence=base.licence,
            source=str(folder),
        )
        record(cheaper, f"reduced to {chosen}")
        if chosen is precision.Precision.BF16 and fastest is not chosen:
            self.stdout.write("this machine has no instructions for bf16: here it is slower")
        self.stdout.write(f"encoder {cheaper.pk} is registered; next: fill it, then switch to it")

    def fill(self, version: EncoderVersion) -> None:
        index.require_in_use(version)
        due = 0
        chosen = regions.how_chosen(regions.object_detectors())
        stage = Stage.REPORT if version.reads == Reads.REPORTS else Stage.ENCODE
        for collection in Collection.objects.all():
            parts_from = chosen if collection.finds_parts else ""
            with access.processing(collection.pk):
                images = (
                    index.reports_to_read(version, collection.pk, rules_digest=rules_digest())
                    if stage is Stage.REPORT
                    else index.without_vector(version, collection.pk, parts_from=parts_from)
                )
                for image in images:
                    if not Work.objects.filter(image=image, stage=stage).exists():
                        outbox.add(image, stage)
                        due += 1
        record(version, "filling")
        self.stdout.write(f"{due} images to encode")

    def switch(self, version: EncoderVersion) -> None:
        index.require_in_use(version)
        require_sound(version)
        with Console(stderr=True).status("building its indexes") as status:
            upkeep.build_missing(
                version,
                lambda done, rows: status.update(f"building its indexes: {done} of {rows} rows"),
            )
        index.switch(version)
        self.stdout.write(f"encoder {version.pk} answers queries now")

    def retire(self, version: EncoderVersion) -> None:
        index.retire(version)
        self.stdout.write(f"encoder {version.pk} is retired; its row stays for the record")


def reads_words(encoder: Encoder) -> bool:
    try:
        encoder.encode_texts(["a"])
    except NoTextTower:
        return False
    return True


def find_encoder(name: str) -> EncoderVersion:
    try:
        return EncoderVersion.objects.get(name=name)
    except EncoderVersion.DoesNotExist as error:
        raise CommandError(f"no encoder named {name!r}") from error


def require_sound(version: EncoderVersion) -> None:
    """Raise CertificateRefused where ε does not follow from what its certificate says."""
    # Its accountants take seconds to load: the other verbs do not wait for them.
    from workers.finetune.verify import check  # noqa: PLC0415

    for certificate in Certificate.objects.filter(encoder=version):
        if problem := check(certificate.document, keys.public_key()).problem:
            raise CertificateRefused(f"the certificate does not hold: {problem}")


def record(version: EncoderVersion, change: str) -> None:
    """On the log without an actor: a worker's role does not read the table of users."""
    audit.record(Kind.ENCODER_CHANGED, actor=None, encoder=version.pk, change=change)
