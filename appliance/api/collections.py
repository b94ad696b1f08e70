from ninja import Query, Router, Schema

from appliance.api import paging
from appliance.api.auth import ApiRequest, Token
from retrieval import access
from retrieval.models import Collection
from retrieval.models.grant import Capability

router = Router(tags=["collections"], auth=Token(None))


class CollectionOut(Schema):
    """`may`: what this token opens there for the request's purpose of use."""

    id: int
    name: str
    description: str
    may: list[Capability]


class CollectionsOut(paging.Page):
    items: list[CollectionOut]


@router.get("/collections", response=CollectionsOut, operation_id="collections")
def collections(request: ApiRequest, page: Query[paging.PageIn]) -> CollectionsOut:
    """The collections that this token opens for this purpose, and for what."""
    after = paging.decode(page.cursor, int)[0] if page.cursor else 0
    opened: dict[Capability, set[int]] = {}
    found: dict[int, Collection] = {}
    for capability in Capability:
        permitted = access.collections_where(request.auth, request.purpose, capability)
        opened[capability] = {c.pk for c in permitted}
        found |= {c.pk: c for c in permitted}
    later = sorted(pk for pk in found if pk > after)
    items = [
        CollectionOut(
            id=pk,
            name=found[pk].name,
            description=found[pk].description,
            may=[capability for capability in Capability if pk in opened[capability]],
        )
        for pk in later[: page.limit]
    ]
    more = len(later) > page.limit
    return CollectionsOut(items=items, next=paging.encode(items[-1].id) if more else None)
