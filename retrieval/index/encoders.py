"""Which encoders there are, which of them answers queries, and what each has seen."""

import time
from datetime import datetime, timedelta
from typing import Final

from django.db import connection, transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from retrieval import access, audit, certificates
from retrieval.errors import EncoderUnavailable, ModelRefused
from retrieval.index.vectors import WHOLE_IMAGE
from retrieval.models import (
    Collection,
    Embedding,
    EncoderVersion,
    Image,
    Kind,
    Reads,
    State,
    TagThreshold,
)

MAX_DIMENSIONS = 4000
"""Of a halfvec that an HNSW index takes."""
SETTLING = timedelta(seconds=30)
"""What was indexed so recently may just be on its way into the other encoders' indexes."""
_MODELS_LOCK = 0x636C6F69
"""Key of the advisory lock between a switch and images that are becoming searchable."""


def register_encoder(
    *,
    name: str,
    digest: str,
    dimensions: int,
    licence: str,
    source: str = "",
    base: EncoderVersion | None = None,
    epsilon: float | None = None,
    delta: float | None = None,
    reads: Reads = Reads.PICTURES,
) -> EncoderVersion:
    """The row of an encoder; the first one ever of its kind goes live. Twice leaves one row.

    `base`, `epsilon` and `delta` are those of one that was trained on images here: it goes live
    by `switch` only. Raises ModelRefused where the name is taken by other weights: their vectors
    do not compare; by another folder, or by what was retired; and for more dimensions than an index
    takes.
    """
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ModelRefused(f"{dimensions} dimensions are not 1 to {MAX_DIMENSIONS}")
    learned_from_images = base is not None or epsilon is not None
    version, _ = EncoderVersion.objects.get_or_create(
        name=name,
        defaults={
            "digest": digest,
            "dimensions": dimensions,
            "licence": licence,
            "source": source,
            "base": base,
            "epsilon": epsilon,
            "delta": delta,
            "reads": reads,
            "live": not learned_from_images
            and not EncoderVersion.objects.filter(live=True, reads=reads).exists(),
        },
    )
    privacy = (version.base_id, version.epsilon, version.delta)
    if (
        version.digest != digest
        or version.dimensions != dimensions
        or privacy != (base and base.pk, epsilon, delta)
    ):
        raise ModelRefused(f"encoder {version.pk} was registered with other weights")
    if version.source != source:
        raise ModelRefused(f"encoder {version.pk} was registered from another folder")
    require_in_use(version)
    return version


def live_encoder() -> EncoderVersion:
    """The encoder whose pictures' vectors answer queries. Raises EncoderUnavailable before there
    is one."""
    # Raw: composed anew it would cost each search more than the asking.
    for version in EncoderVersion.objects.raw(_LIVE, [Reads.PICTURES]):
        return version
    raise EncoderUnavailable("no encoder is live yet")


def live_report_encoder() -> EncoderVersion | None:
    """The one whose vectors of reports answer queries; None before the first report was read."""
    return next(iter(EncoderVersion.objects.raw(_LIVE, [Reads.REPORTS])), None)


_LIVE: Final = "SELECT * FROM retrieval_encoderversion WHERE live AND reads = %s"


def encoder_named(name: str) -> EncoderVersion:
    """An encoder in use, live or not. Raises EncoderUnavailable where there is none."""
    version = EncoderVersion.objects.filter(name=name, retired_at__isnull=True).first()
    if version is None:
        raise EncoderUnavailable("there is no encoder of that name in use")
    return version


def switch(encoder: EncoderVersion) -> None:
    """Let `encoder` answer queries from now on, in one step; the one before can be switched back.

    Of its kind: there is one of pictures and one of reports.

    As a worker's role. Raises ModelRefused where an indexed image has no vector of it yet: it
    would silently not be found; where it was retired; and where it was trained on images without
    a valid certificate.
    """
    encoder = EncoderVersion.objects.get(pk=encoder.pk)
    require_in_use(encoder)
    certificates.require_certified(encoder)
    give_up_at = time.monotonic() + SETTLING.total_seconds()
    while missing := _switch_if_complete(encoder):
        settling = count_without_vector(encoder, since=timezone.now() - SETTLING)
        if settling < missing or time.monotonic() > give_up_at:
            raise ModelRefused(f"{missing} indexed images have no vector of that encoder: fill it")
        time.sleep(0.2)


def _switch_if_complete(encoder: EncoderVersion) -> int:
    """Switch and return 0, or return how many indexed images have no vector of `encoder`."""
    with transaction.atomic(durable=True):
        # No image becomes searchable between the count and the switch.
        _lock_models(shared=False)
        if missing := sum(
            without_vector(encoder, collection_id).count()
            for collection_id in access.each_collection()
        ):
            return missing
        EncoderVersion.objects.filter(live=True, reads=encoder.reads).update(live=False)
        EncoderVersion.objects.filter(pk=encoder.pk).update(live=True)
        # Without an actor: a worker's role does not read the table of users.
        audit.record_in_transaction(
            Kind.ENCODER_CHANGED, actor=None, encoder=encoder.pk, change="went live"
        )
    return 0


def hold_live(encoder: EncoderVersion) -> None:
    """Keep `encoder` live until the end of this transaction, in which an image is indexed by it.

    Raises EncoderUnavailable where another one went live meanwhile: encode the image again.
    """
    _lock_models(shared=True)
    if not EncoderVersion.objects.filter(pk=encoder.pk, live=True).exists():
        raise EncoderUnavailable(f"encoder {encoder.pk} is no longer live")


def _lock_models(*, shared: bool) -> None:
    lock = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {lock}(%s)", [_MODELS_LOCK])


def retire(encoder: EncoderVersion) -> None:
    """Drop an encoder's vectors and indexes; its row stays for the record. As a worker's role.

    Running it again goes on where it was cut short. Raises ModelRefused for the live one.
    """
    with transaction.atomic(durable=True):
        _lock_models(shared=False)
        encoder = EncoderVersion.objects.get(pk=encoder.pk)
        if encoder.live:
            raise ModelRefused(f"encoder {encoder.pk} answers queries: switch to another one first")
        if encoder.retired_at is None:
            EncoderVersion.objects.filter(pk=encoder.pk).update(retired_at=timezone.now())
            audit.record_in_transaction(
                Kind.ENCODER_CHANGED, actor=None, encoder=encoder.pk, change="retired"
            )
    for collection_id in Collection.objects.values_list("pk", flat=True):
        with access.processing(collection_id), connection.cursor() as cursor:
            cursor.execute("SELECT cloister_drop_index(%s, %s)", [collection_id, encoder.pk])
            Embedding.objects.filter(collection_id=collection_id, encoder_id=encoder.pk).delete()
            TagThreshold.objects.filter(collection_id=collection_id, encoder=encoder).delete()


def require_in_use(encoder: EncoderVersion) -> None:
    """Raise ModelRefused for one that was retired."""
    if encoder.retired_at is not None:
        raise ModelRefused(f"encoder {encoder.pk} was retired: import it under another name")


def require_kept(encoder: EncoderVersion) -> None:
    """Raise EncoderUnavailable where it was retired by now: its vectors are being dropped.

    Asked after they were read, because what was read since may not be all there was.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT retired_at IS NULL FROM retrieval_encoderversion WHERE id = %s", [encoder.pk]
        )
        if cursor.fetchone() != (True,):
            raise EncoderUnavailable(f"encoder {encoder.pk} was retired")


def count_without_vector(encoder: EncoderVersion, *, since: datetime | None = None) -> int:
    """How many indexed images, in all collections, `encoder` has not seen. As a worker's role.

    `since`: of those that were indexed then or later.
    """
    with transaction.atomic(durable=True):
        return sum(
            (missing if since is None else missing.filter(indexed_at__gte=since)).count()
            for collection_id in access.each_collection()
            for missing in [without_vector(encoder, collection_id)]
        )


def coverage(encoder: EncoderVersion) -> float:
    """The share of all indexed images that `encoder` has seen; 1 where there are none."""
    with transaction.atomic(durable=True):
        indexed = sum(
            _read_by(encoder, collection_id).count() for collection_id in access.each_collection()
        )
    return 1 - count_without_vector(encoder) / indexed if indexed else 1.0


def without_vector(
    encoder: EncoderVersion, collection_id: int, *, parts_from: str | None = None
) -> QuerySet[Image]:
    """The collection's indexed images that `encoder` has not seen, inside `access.processing`.

    parts_from: also those whose parts it has from elsewhere (see `store`).
    """
    seen = Embedding.objects.filter(
        collection_id=collection_id, image_id=OuterRef("pk"), encoder_id=encoder.pk
    )
    if parts_from is not None:
        seen = seen.filter(region=WHOLE_IMAGE, parts_from=parts_from)
    return _read_by(encoder, collection_id).filter(~Exists(seen))


def _read_by(encoder: EncoderVersion, collection_id: int) -> QuerySet[Image]:
    """What it has to see: the indexed images, or those of them with a report that says anything."""
    indexed = Image.objects.filter(state=State.INDEXED, collection_id=collection_id)
    return indexed.filter(report__passages__gt=0) if encoder.reads == Reads.REPORTS else indexed


def reports_to_read(
    encoder: EncoderVersion, collection_id: int, *, rules_digest: str
) -> QuerySet[Image]:
    """Indexed images whose reports `encoder` has not read, or were cleaned by other rules than
    these, inside `access.processing`."""
    unread = Q(pk__in=without_vector(encoder, collection_id).values("pk"))
    with_report = Image.objects.filter(state=State.INDEXED, report__collection_id=collection_id)
    return with_report.filter(unread | ~Q(report__rules_digest=rules_digest))


def coverage_of_parts(encoder: EncoderVersion, *, parts_from: str) -> float | None:
    """Of the indexed images whose collections find parts, the share that `encoder` has looked
    through for them as `parts_from` says; None where there are none. As a worker's role."""
    if encoder.reads == Reads.REPORTS:
        return None
    wanting = set(Collection.objects.filter(finds_parts=True).values_list("pk", flat=True))
    indexed = due = 0
    with transaction.atomic(durable=True):
        for collection_id in access.each_collection():
            if collection_id in wanting:
                indexed += Image.objects.filter(
                    collection_id=collection_id, state=State.INDEXED
                ).count()
                due += without_vector(encoder, collection_id, parts_from=parts_from).count()
    return 1 - due / indexed if indexed else None
