"""What is done to an image at each stage.

Un-redacted pixels exist inside `deidentified` only: what it returns is covered, looked at
again, and all that the rest of the appliance ever sees.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import cast
from uuid import UUID

import numpy as np

from retrieval import access, certificates, frames, index, outbox, storage
from retrieval.errors import ModelRefused, NoTextTower, Reason, Rejected
from retrieval.models import (
    Collection,
    EncoderVersion,
    PrivacyProfile,
    Reads,
    ReviewBox,
    Source,
    Stage,
    State,
    Subject,
    Work,
)
from retrieval.models import Image as StoredImage
from retrieval.storage import Form
from workers import videos
from workers.decode.dicom import MEDIA_TYPE as DICOM
from workers.decode.sandbox import decode
from workers.deidentify import derivative
from workers.deidentify.dicom.origin import Origin, origin_of
from workers.deidentify.marks import as_stored
from workers.deidentify.obscure import Shape, Style
from workers.deidentify.reviewed import boxes_of, cover_reviewed, rows_of
from workers.deidentify.verdict import Boxes, Deidentified, Profile, detectors_for, still_found
from workers.deidentify.verdict import deidentify as deidentify_pixels
from workers.encode import regions
from workers.encode.encoder import Encoder, Pixels, Vectors
from workers.encode.registry import EMBEDDED, is_private_head, load
from workers.perceptual_hash import perceptual_hash
from workers.previews import Shown

log = logging.getLogger("cloister.stages")

_collection = attrgetter("collection_id")


def deidentify(work: Work) -> None:
    """Decode, cover and look again; then the image is due to be encoded, in review, or rejected.

    What a reviewer drew in an earlier start is covered as well, and her review goes on.
    A received video is split instead: its frames are images, and go through here one by one.
    """
    image, profile, boxes = _looked_up(work)
    drawn = [box for box in boxes if box.source == Source.REVIEWER and not box.removed_reason]
    try:
        if videos.is_whole_video(image):
            moments = videos.moments(image)
            with outbox.settling(work) as image:
                frames.split(image, moments)
            return
        if image.video is not None:
            original, covered = videos.deidentified_frame(image, image.video, _rules(profile))
        else:
            original = storage.read(image, Form.ORIGINAL)
            covered = deidentified(original, profile)
        is_dicom = image.media_type == DICOM
        origin = origin_of(original, collection_id=work.collection_id) if is_dicom else None
    except Rejected as rejected:
        with outbox.settling(work) as image:
            outbox.settle(image, State.REJECTED, rejected.reason)
        return
    pixels = cover_reviewed(covered.pixels, drawn, _rules(profile))
    # Boxes once shown to a reviewer are a reviewer's to release: not a gentler profile's.
    reason = covered.reason or (Reason.REVIEW_UNFINISHED if boxes else None)
    with outbox.settling(work) as image:
        if image.video_id is not None:
            storage.write_bytes(image, Form.ORIGINAL, original)
        image.rules_digest = profile.rules_digest
        _store_render(image, pixels, covered.boxes + boxes_of(drawn))
        _propose_boxes(image, covered.boxes, is_in_review=reason is not None)
        if origin is not None:
            _record_origin(image, origin)
        if reason is not None:
            outbox.settle(image, State.REVIEW, reason)
        else:
            outbox.settle(image, State.DEIDENTIFIED)
            outbox.add(image, Stage.ENCODE)


def cover(work: Work) -> None:
    """Cover an image in review as its reviewer drew it, from the original. It stays in review.

    What a last look at the result still sees is shown to the reviewer, who decides.
    """
    image, profile, seen = _looked_up(work)
    boxes = [box for box in seen if box.source != Source.LAST_LOOK and not box.removed_reason]
    if not _is_reviewable(image):
        with outbox.settling(work):
            return
    rules = _rules(profile)
    original = decode(storage.read(image, Form.ORIGINAL)).pixels
    pixels = cover_reviewed(original, boxes, rules)
    left = still_found(pixels, boxes_of(boxes), rules, detectors_for(rules))
    with outbox.settling(work) as image:
        # Rejected meanwhile: nobody is to see what the new picture shows.
        if not _is_reviewable(image):
            return
        # Its rules stay those it was looked at under: covering again looks for nothing new.
        _store_render(image, pixels, boxes_of(boxes))
        ReviewBox.objects.filter(image=image, source=Source.LAST_LOOK).delete()
        ReviewBox.objects.bulk_create(rows_of(left, image, Source.LAST_LOOK))


def _is_reviewable(image: StoredImage) -> bool:
    """Whether its boxes say all that was found: where a detector failed there are none, and
    covering none would show the original."""
    is_known = image.reason != Reason.DETECTOR_FAILED and image.render > 0
    return image.state == State.REVIEW and is_known


def _looked_up(work: Work) -> tuple[StoredImage, PrivacyProfile, list[ReviewBox]]:
    """The image, its collection's rules, and every box of its review, those taken off too."""
    with access.processing(work.collection_id):
        images = StoredImage.objects.select_related("video", "collection__profile")
        image = images.get(pk=work.image_id)
        return image, image.collection.profile, list(ReviewBox.objects.filter(image=image))


def _store_render(image: StoredImage, pixels: Pixels, covered: Boxes) -> None:
    """Replace what is shown of the locked image, and say what it covers.

    Behind the fencing token: a worker that was taken over replaces no picture.
    """
    storage.write_bytes(image, Form.PREVIEW, derivative.encode_preview(pixels))
    storage.write_bytes(image, Form.THUMBNAIL, derivative.encode_thumbnail(pixels))
    image.render += 1
    image.height, image.width = pixels.shape[:2]
    image.faces = [
        {"box": list(f.box), "score": round(f.score, 3), "detector": f.detector}
        for f in covered.faces
    ]
    image.text = [
        as_stored(mark, image.height, image.width) for mark in covered.text + covered.codes
    ]
    image.perceptual_hash = perceptual_hash(pixels)
    fields = ["render", "rules_digest", "width", "height", "faces", "text", "perceptual_hash"]
    image.save(update_fields=fields)


def _propose_boxes(image: StoredImage, found: Boxes, *, is_in_review: bool) -> None:
    """Note what was found for who reviews it; what an earlier start had found is void.

    Not what reviewers drew, nor who took it off: a new start is no second reviewer.
    """
    ReviewBox.objects.filter(image=image).exclude(source=Source.REVIEWER).delete()
    if is_in_review:
        ReviewBox.objects.bulk_create(rows_of(found, image, Source.DETECTOR))


def _record_origin(image: StoredImage, origin: Origin) -> None:
    """Note whose picture this is, by pseudonym; pictures of one patient share one subject."""
    if origin.pseudonym:
        image.subject, _ = Subject.objects.get_or_create(
            collection_id=image.collection_id, pseudonym=origin.pseudonym
        )
    image.modality, image.taken_on, image.study = origin.modality, origin.taken_on, origin.study
    image.save(update_fields=["subject", "modality", "taken_on", "study"])


def encode(works: Sequence[Work]) -> None:
    """Encode stored de-identified previews together, never originals, and index the vectors.

    One that fails gives its lease back and is no other's failure. Encoders that are not live yet
    fill in the shadow of the one that is; one that fails, or is never reached because the worker
    dies, holds nothing up: its image stays among those that `encoder fill` shows it, and there is
    no switch before. No encoder is shown what it has seen: see `_seen_by`.
    """
    if not works:
        return
    live = index.live_encoder()
    due: list[_Due] = []
    # A collection's together: each look into one is a transaction of its own.
    for collection_id, those in groupby(sorted(works, key=_collection), key=_collection):
        together = list(those)
        with outbox.attempting(*together):
            due += _due(collection_id, together)
    seen = _seen_by(live, due)
    unseen = [each for each in due if each.image_id not in seen]
    filled = [each for each in due if each.image_id in seen]
    indexed = list(filled)
    for each, vectors in zip(unseen, _vectors(encoder_of(live), unseen), strict=True):
        with outbox.attempting(each.work):
            rows = _found(vectors)
            with outbox.settling(each.work) as image:
                index.hold_live(live)
                _store(image, each, rows, live)
                outbox.settle(image, State.INDEXED)
            indexed.append(each)
    # Whichever is live by now: one that was switched to meanwhile may lack parts.
    others = EncoderVersion.objects.filter(reads=Reads.PICTURES, retired_at=None)
    for other in others.exclude(pk=live.pk):
        try:
            _fill(other, indexed)
        except Exception:
            log.exception("encoder %s sees no images", other.pk)
    for each in filled:
        with outbox.attempting(each.work), outbox.settling(each.work):
            pass


@dataclass(frozen=True)
class _Due:
    """An image that is due to be encoded. parts_from: how its parts are chosen, if it has any.

    was_indexed: before this work, so that encoders may have seen what it shows.
    """

    work: Work
    shown: Shown
    parts_from: str
    was_indexed: bool

    @property
    def image_id(self) -> UUID:
        return self.shown.image.pk


def _due(collection_id: int, works: Sequence[Work]) -> list[_Due]:
    """What of `works` is to be encoded: their rows went with images that were erased meanwhile."""
    with access.processing(collection_id):
        finds_parts = Collection.objects.get(pk=collection_id).finds_parts
        images = StoredImage.objects.in_bulk([work.image_id for work in works])
    detectors = regions.object_detectors() if finds_parts else None
    chosen = "" if detectors is None else regions.how_chosen(detectors)
    found = [(work, images[work.image_id]) for work in works if work.image_id in images]
    return [
        _Due(work, Shown(image, detectors), chosen, image.state == State.INDEXED)
        for work, image in found
    ]


def _seen_by(encoder: EncoderVersion, due: Sequence[_Due]) -> set[UUID]:
    """Those of `due` whose vector `encoder` has, and whose parts as they are chosen now.

    Only what was indexed before: its covers stay as they are, and whatever draws them anew takes
    the image out of the index first. Another vector of the same picture would be a dead one more,
    from which the live index suffers until it is built anew.
    """
    seen = set[UUID]()
    for collection_id, those in groupby(due, key=lambda each: each.work.collection_id):
        known = {each.image_id: each.parts_from for each in those if each.was_indexed}
        if not known:
            continue
        (parts_from,) = set(known.values())
        with access.processing(collection_id):
            lacking = index.without_vector(encoder, collection_id, parts_from=parts_from)
            seen |= known.keys() - set(lacking.filter(pk__in=known).values_list("pk", flat=True))
    return seen


def _vectors(encoder: Encoder, due: Sequence[_Due]) -> Iterator[Vectors | Exception]:
    """Of each image: the whole's row and one for each of its parts, or what it failed of."""
    from workers.encode.batches import vectors_of  # noqa: PLC0415  torch, as in warm_up

    return vectors_of(encoder, [partial(each.shown.pictures, encoder.side) for each in due])


def _found(vectors: Vectors | Exception) -> Vectors:
    """Raises what there is instead."""
    if isinstance(vectors, Exception):
        raise vectors
    return vectors


def _store(image: StoredImage, due: _Due, vectors: Vectors, encoder: EncoderVersion) -> None:
    whole = vectors[0]
    parts = list(zip(due.shown.parts, regions.leaning(vectors[1:], whole), strict=True))
    index.store(image, whole, encoder=encoder, parts=parts, parts_from=due.parts_from)


def _fill(shadow: EncoderVersion, indexed: Sequence[_Due]) -> None:
    seen = _seen_by(shadow, indexed)
    unseen = [each for each in indexed if each.image_id not in seen]
    for each, vectors in zip(unseen, _vectors(encoder_of(shadow), unseen), strict=True):
        image = each.shown.image
        try:
            rows = _found(vectors)
            with access.processing(image.collection_id):
                image.refresh_from_db(fields=["state"])
                _store(image, each, rows, shadow)
        except Exception:
            log.exception("encoder %s has not seen image %s", shadow.pk, image.pk)


def embed(encoder: Encoder, pixels: Pixels) -> np.ndarray:
    """One image's vector, (dimensions,) float32, unit L2."""
    (vector,) = encoder.encode_images(encoder.preprocess([pixels]))
    return np.asarray(vector)


def warm_up() -> None:
    """Load the encoder that answers queries; the first worker ever registers the embedded one."""
    # Seconds and hundreds of megabytes of torch, which workers that only de-identify do without.
    from workers.encode.device import share_cores  # noqa: PLC0415

    share_cores()
    if not EncoderVersion.objects.filter(live=True, reads=Reads.PICTURES).exists():
        embedded = load(EMBEDDED)
        index.register_encoder(
            name=embedded.name,
            digest=embedded.digest,
            dimensions=embedded.dimensions,
            licence=embedded.licence,
        )
    with suppress(NoTextTower):
        encoder_of(index.live_encoder()).encode_texts(["warm"])


def encoder_of(version: EncoderVersion) -> Encoder:
    """The encoder behind a row, kept warm in this process. Raises ModelRefused.

    Asked at every use, as the row may have been changed past `index.switch`: one that learned
    from images has a valid certificate, whatever its row says of its origin.
    """
    certificates.require_certified(version)
    is_head = bool(version.source) and is_private_head(Path(version.source))
    if is_head and not version.learned_from_images:
        raise ModelRefused(f"encoder {version.pk} learned from images and its row denies it")
    return load(version.name, source=version.source or None, digest=version.digest)


def deidentified(content: bytes, profile: PrivacyProfile) -> Deidentified:
    """The pixels of a file, covered and looked at again. Raises Rejected.

    `reason` says why a person must look first; then the pixels are not to be used.
    """
    rules = _rules(profile)
    return deidentify_pixels(decode(content), rules, detectors_for(rules))


def _rules(profile: PrivacyProfile) -> Profile:
    return Profile(
        name=profile.name,
        cover=cast(Style, profile.cover),
        shape=cast(Shape, profile.shape),
        mosaic_cells=profile.mosaic_cells,
        margin=profile.margin,
        detection_threshold=profile.detection_threshold,
        cover_text=profile.cover_text,
        cover_codes=profile.cover_codes,
        text_allowed=tuple(profile.text_allowed),
    )
