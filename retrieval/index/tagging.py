"""Which images bear a collection's tag words, by their vectors (see `retrieval.tag_words`)."""

from collections.abc import Sequence
from uuid import UUID

from django.db import connection

from retrieval.models import EncoderVersion, TagThreshold

_TAGS_LOCK = 0x636C6F6B
"""Key of the advisory lock between new thresholds of a collection and images that come in."""


def set_tag_thresholds(thresholds: Sequence[TagThreshold], *, encoder: EncoderVersion) -> None:
    """Replace the thresholds of these tag words of one collection in `encoder`'s space, and tag
    every image anew by its vector, inside `access.processing`."""
    collection_id = thresholds[0].collection_id
    # Whoever writes a vector now has seen the old ones only.
    _lock_tags(collection_id, shared=False)
    TagThreshold.objects.filter(
        collection_id=collection_id, encoder=encoder, word__in=[t.word_id for t in thresholds]
    ).delete()
    TagThreshold.objects.bulk_create(thresholds)
    _tag(collection_id, encoder, None)


def tag_by_vectors(collection_id: int, encoder: EncoderVersion, images: Sequence[UUID]) -> None:
    """Tag images whose vectors were just written, in the same transaction."""
    _lock_tags(collection_id, shared=True)
    _tag(collection_id, encoder, list(images))


def _lock_tags(collection_id: int, *, shared: bool) -> None:
    lock = "pg_advisory_xact_lock_shared" if shared else "pg_advisory_xact_lock"
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {lock}(%s, %s)", [_TAGS_LOCK, collection_id])


def _tag(collection_id: int, encoder: EncoderVersion, images: list[UUID] | None) -> None:
    """Hold whole images' vectors against the thresholds; what they passed before is forgotten."""
    which = {"collection": collection_id, "encoder": encoder.pk, "images": images}
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM retrieval_automatictag tag USING retrieval_tagthreshold t"
            " WHERE t.id = tag.threshold_id AND tag.collection_id = %(collection)s"
            " AND t.encoder_id = %(encoder)s"
            " AND (%(images)s::uuid[] IS NULL OR tag.image_id = ANY (%(images)s::uuid[]))",
            which,
        )
        cursor.execute(
            "INSERT INTO retrieval_automatictag (threshold_id, image_id, collection_id)"
            " SELECT t.id, e.image_id, e.collection_id"
            " FROM retrieval_tagthreshold t JOIN retrieval_embedding e"
            " ON e.collection_id = t.collection_id AND e.encoder_id = t.encoder_id"
            " WHERE e.collection_id = %(collection)s AND e.encoder_id = %(encoder)s"
            " AND e.region = 0 AND - (e.vector <#> t.direction) >= t.least_score"
            " AND (%(images)s::uuid[] IS NULL OR e.image_id = ANY (%(images)s::uuid[]))",
            which,
        )
