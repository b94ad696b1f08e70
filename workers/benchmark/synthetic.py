"""Vectors made from a seed: clusters in fifty collections, and queries of three kinds.

A vector is a point of a 48-dimensional space, near one of its collection's eight centres, laid
into 512 dimensions with a little noise: as concentrated as embeddings of pictures are, where
independent noise in all dimensions would make every row equally far from every query.
"""

import time
from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID, uuid4

import numpy as np

from retrieval import access, index, upkeep
from retrieval.models import (
    Collection,
    EncoderVersion,
    Image,
    ImportBatch,
    PrivacyProfile,
    Purpose,
    Role,
    State,
    User,
)
from workers.benchmark import scratch
from workers.benchmark.table import Say

COLLECTIONS = 50
DIMENSIONS = 512
_LATENT = 48
_CENTRES = 8
_SPREAD = 0.7
_NOISE = 0.1
_MODALITY_GAP = 0.5
BATCH = 1000

Kind = Literal["image", "words", "foreign"]


@dataclass
class Corpus:
    """vectors: (N, 512) float32, unit L2 rows, collection after collection."""

    encoder: EncoderVersion
    collections: list[Collection] = field(default_factory=list)
    images: list[UUID] = field(default_factory=list)
    of_collection: list[int] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)

    def rows_in(self, collections: list[Collection]) -> np.ndarray:
        """Row numbers of what lies in `collections`."""
        return np.flatnonzero(np.isin(self.of_collection, [c.pk for c in collections]))


class Space:
    """Where centres lie, and how points come from them. One seed, one space."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.basis = self.rng.normal(size=(_LATENT, DIMENSIONS)) / np.sqrt(_LATENT)
        self.gap = self.rng.normal(size=DIMENSIONS) / np.sqrt(DIMENSIONS)
        # One collection more than there are: of what is foreign to all.
        self.centres = self.rng.normal(size=(COLLECTIONS + 1, _CENTRES, _LATENT))

    def points(self, collection: int, count: int) -> np.ndarray:
        centre = self.centres[collection, self.rng.integers(0, _CENTRES, count)]
        latent = centre + _SPREAD * self.rng.normal(size=(count, _LATENT))
        noise = _NOISE * self.rng.normal(size=(count, DIMENSIONS))
        return _unit(latent @ self.basis + noise)

    def queries(self, kind: Kind, collections: list[int], count: int) -> np.ndarray:
        """(count, 512): pictures like those of `collections`, words for them, or of neither."""
        if kind == "foreign":
            return self.points(COLLECTIONS, count)
        near = np.concatenate([self.points(int(c), 1) for c in self.rng.choice(collections, count)])
        return near if kind == "image" else _unit(near + _MODALITY_GAP * self.gap)


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def sizes(rows: int) -> list[int]:
    """The first collection holds 0.5 % of all rows, the second 5 %, the others share the rest."""
    small, large = max(rows // 200, 20), rows // 20
    each = (rows - small - large) // (COLLECTIONS - 2)
    return [small, large, *[each] * (COLLECTIONS - 2)]


def fill(space: Space, rows: int, say: Say) -> tuple[Corpus, float]:
    """Fill an empty appliance, without indexes; returns seconds spent on writing vectors, too."""
    with scratch.as_role("worker"):
        encoder = index.register_encoder(
            name="synthetic", digest="0" * 64, dimensions=DIMENSIONS, licence="none"
        )
    corpus, seconds = Corpus(encoder), 0.0
    operator = User.objects.get(username=access.OPERATOR)
    profile = PrivacyProfile.objects.get(name="photographs")
    for number, count in enumerate(sizes(rows)):
        if number % 10 == 0:
            say(f"writing collection {number + 1} of {COLLECTIONS}")
        collection = access.open_collection(
            name=f"synthetic {number}", profile=profile, actor=operator
        )
        images = _images(collection, operator, count)
        vectors = space.points(number, count)
        seconds += write(corpus, collection, images, vectors)
        corpus.collections.append(collection)
    return corpus, seconds


def _images(collection: Collection, operator: User, count: int) -> list[UUID]:
    """Rows of indexed pictures that have no pixels."""
    ids = [uuid4() for _ in range(count)]
    with access.acting_as(operator, Purpose.ADMINISTRATION):
        batch = ImportBatch.objects.create(collection=collection, started_by=operator)
        Image.objects.bulk_create(
            (
                Image(
                    pk=image_id,
                    collection=collection,
                    batch=batch,
                    state=State.INDEXED,
                    media_type="image/png",
                    content_key=image_id.bytes,
                    wrapped_key=b"",
                    sealed_name=b"",
                )
                for image_id in ids
            ),
            batch_size=BATCH,
        )
    return ids


def write(corpus: Corpus, collection: Collection, images: list[UUID], vectors: np.ndarray) -> float:

    started = time.perf_counter()
    with scratch.as_role("worker"):
        for at in range(0, len(images), BATCH):
            with access.processing(collection.pk):
                index.store_all(
                    collection.pk,
                    images[at : at + BATCH],
                    vectors[at : at + BATCH],
                    encoder=corpus.encoder,
                )
    seconds = time.perf_counter() - started
    corpus.images += images
    corpus.of_collection += [collection.pk] * len(images)
    corpus.vectors.append(vectors)
    return seconds


def build(corpus: Corpus, say: Say) -> None:
    """Index every partition, also those that would be too small to need it."""
    with scratch.as_role("worker"):
        for number, collection in enumerate(corpus.collections):
            if number % 10 == 0:
                say(f"building index {number + 1} of {COLLECTIONS}")
            upkeep.build_index(collection.pk, corpus.encoder)


def reader(name: str, collections: list[Collection]) -> User:
    """Somebody who may search in these collections, and in no others."""
    operator = User.objects.get(username=access.OPERATOR)
    user = User.objects.create_user(username=name)
    for collection in collections:
        access.give_grant(
            collection, Role.SEARCHER, [Purpose.TREATMENT], user=user, granted_by=operator
        )
    return user
