"""Who may do what in which collection, for which purpose. The first of two locks.

The second is row-level security (migration 0002): it decides anew, in the database, from the
actor and purpose that `acting_as` sets for one transaction. No context, no rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from django.contrib.auth.models import Group
from django.db import connection, transaction
from django.utils import timezone
from psycopg import sql

from retrieval import audit
from retrieval.errors import AccessDenied, NameTaken, ServicesUnavailable
from retrieval.models import (
    Collection,
    Grant,
    Image,
    Kind,
    PrivacyProfile,
    Purpose,
    Role,
    Scope,
    User,
)
from retrieval.models.collection import default_purposes
from retrieval.models.grant import CAPABILITIES, Capability

OPERATOR: Final = "operator"
"""The user in whose name commands on the appliance's own command line act, unless told another."""

READ_LIMIT_S: Final = 10
"""Of one statement; where the index is read, all of them have less: `index.deadline`."""

SCOPE_FOR: Final[dict[Capability, str | None]] = {
    Capability.VIEW: "",
    Capability.SEE_SOURCE_NAMES: "",
    Capability.SEARCH: Scope.SEARCH,
    Capability.INGEST: Scope.INGEST,
    Capability.REVIEW: None,
}
"""The scope a token needs for a capability. Empty: any will do. None: no program has it."""


@contextmanager
def acting_as(actor: User, purpose: Purpose) -> Iterator[None]:
    """A transaction in which the database shows what `actor` may see for `purpose`.

    Durable: inside another transaction the context would outlive this block.
    """
    with transaction.atomic(durable=True):
        _set_context(**_context_of(actor, purpose))
        yield


@contextmanager
def reading_as(actor: User, purpose: Purpose) -> Iterator[None]:
    """What `acting_as` shows, for statements that change nothing; one that would is refused.

    Each is a transaction of its own and goes out in one message with its context. One transaction
    around all would cost a message to begin, one for the context and one to end, and show nothing
    else: where it is READ COMMITTED, each statement sees what was committed before it. One that
    takes longer than READ_LIMIT_S is ended by the server.
    """
    if connection.in_atomic_block or not connection.get_autocommit():
        raise RuntimeError("inside a transaction the context would outlive this block")
    if _is_reading.get():
        raise RuntimeError("whoever reads already would be asked for instead")
    context = sql.SQL(
        "SELECT set_config('transaction_read_only', 'on', true),"
        " set_config('statement_timeout', {}, true), {}; "
    ).format(sql.Literal(f"{READ_LIMIT_S}s"), _settings(**_context_of(actor, purpose)))

    def with_context(
        execute: Callable[..., Any], statement: Any, parameters: Any, many: bool, sent: Any
    ) -> Any:
        if connection.in_atomic_block:
            raise RuntimeError("this context would take the place of the transaction's own")
        composed = sql.SQL(statement) if isinstance(statement, str) else statement
        result = execute(context + composed, parameters, many, sent)
        sent["cursor"].nextset()
        return result

    before = _is_reading.set(True)
    try:
        with connection.execute_wrapper(with_context):
            yield
    finally:
        _is_reading.reset(before)


_is_reading: ContextVar[bool] = ContextVar("is_reading", default=False)


def _context_of(actor: User, purpose: Purpose) -> dict[str, str]:
    token = "" if actor.token is None else str(actor.token.pk)
    return {"actor": str(actor.pk), "purpose": purpose, "token": token}


@contextmanager
def processing(collection_id: int, *, training: UUID | None = None) -> Iterator[None]:
    """A worker's transaction: rows of one collection, whoever asked for the work.

    training: the one reservation that may be changed in it, where one is (migration 0013).
    """
    with transaction.atomic(durable=True):
        _set_context(collection=str(collection_id))
        if training is not None:
            _set_context(training=str(training))
        yield


def each_collection() -> Iterator[int]:
    """Inside a worker's transaction, the id of one collection after another, each seen alone."""
    if not connection.in_atomic_block:
        raise RuntimeError("the context of a collection is a transaction's")
    for collection_id in Collection.objects.order_by("pk").values_list("pk", flat=True):
        _set_context(collection=str(collection_id))
        yield collection_id
    _set_context(collection="")


def _set_context(**values: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("SELECT {}").format(_settings(**values)))


def _settings(**values: str) -> sql.Composed:
    """What sets the context of one transaction."""
    return sql.SQL(", ").join(
        sql.SQL("set_config({}, {}, true)").format(f"cloister.{name}", value)
        for name, value in values.items()
    )


def collections_where(actor: User, purpose: Purpose, capability: Capability) -> list[Collection]:
    """The collections in which `actor` has `capability` for `purpose` now, by name.

    By grants, and by broken glass: see `retrieval.break_glass`. For a program, what its token
    leaves of its grants; without one, nothing.
    """
    held = capabilities_in(actor, purpose)
    return [collection for collection, may in held.items() if capability in may]


def capabilities_in(actor: User, purpose: Purpose) -> dict[Collection, set[Capability]]:
    """What `actor` may do now for `purpose` in each collection, by name, where it is anything.

    For who must know more than one capability: as `collections_where` each.
    """
    usable = {each for each in Capability if _lets_through(actor, purpose, each)}
    if not actor.is_active or not usable:
        return {}
    opened = opened_by_glass(actor) if purpose == Purpose.EMERGENCY else []
    found = Collection.objects.raw(
        _HELD, {"actor": actor.pk, "purpose": purpose, "now": timezone.now(), "opened": opened}
    )
    held: dict[Collection, set[Capability]] = {}
    for collection in found:
        roles = {Role(role) for role in collection.roles}  # type: ignore[attr-defined]  # of _HELD
        if collection.pk in opened:
            roles.add(Role.SEARCHER)
        may = {each for role in roles for each in CAPABILITIES[role]} & usable
        if may and (actor.token is None or collection.pk in actor.token.collections):
            held[collection] = may
    return held


_HELD: Final = """
    SELECT c.*, coalesce(held.roles, '{}') AS roles
    FROM retrieval_collection c
    LEFT JOIN (
        SELECT g.collection_id, array_agg(DISTINCT g.role)::text[] AS roles
        FROM (
            SELECT own.* FROM retrieval_grant own WHERE own.user_id = %(actor)s
            UNION ALL
            SELECT shared.* FROM retrieval_user_groups m
            JOIN retrieval_grant shared ON shared.group_id = m.group_id
            WHERE m.user_id = %(actor)s
        ) g
        WHERE %(purpose)s = ANY (g.purposes)
          AND g.valid_from <= %(now)s AND (g.valid_until IS NULL OR g.valid_until > %(now)s)
          AND NOT EXISTS (
              SELECT FROM retrieval_hold h
              WHERE h.user_id = %(actor)s AND h.lifted_at IS NULL AND h.reason <> 'break_glass'
          )
        GROUP BY g.collection_id
    ) held ON held.collection_id = c.id AND %(purpose)s = ANY (c.purposes)
    WHERE held.roles IS NOT NULL OR c.id = ANY (%(opened)s::bigint[])
    ORDER BY c.name
"""
"""Collections with the roles that are held there. Written out: composed anew it would cost more
than all else that a search does in Python."""


def _lets_through(actor: User, purpose: Purpose, capability: Capability) -> bool:
    """Whether the token that `actor` was let in with is for this. People need none."""
    if actor.responsible_id is None:
        return True
    if actor.token is None or purpose not in actor.token.purposes:
        return False
    needed = SCOPE_FOR[capability]
    return needed is not None and (not needed or needed in actor.token.scopes)


def opened_by_glass(actor: User, *, originals: bool = False) -> list[int]:
    """The ids of the collections that `actor` broke the glass of, where it is open now.

    originals: only those whose original pixels were asked for, too.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT cloister_glass_broken(%s, %s)", [actor.pk, originals])
        (opened,) = cursor.fetchone()
    return list(opened)


def require(actor: User, purpose: Purpose, capability: Capability, collection_id: int) -> None:
    """Raise AccessDenied unless `actor` has `capability` there."""
    if collection_id not in {c.pk for c in collections_where(actor, purpose, capability)}:
        raise AccessDenied(f"user {actor.pk} has no {capability} in that collection")


def find_image(
    image_id: UUID, *, actor: User, purpose: Purpose, capability: Capability = Capability.VIEW
) -> Image:
    """The image, inside `acting_as`. Foreign and missing ones raise the same AccessDenied."""
    permitted = collections_where(actor, purpose, capability)
    image = (
        Image.objects.filter(pk=image_id, collection__in=[c.pk for c in permitted])
        .select_related("collection")
        .first()
    )
    if image is None:
        raise AccessDenied(f"user {actor.pk} has no such image")
    return image


def open_collection(
    *,
    name: str,
    profile: PrivacyProfile,
    actor: User,
    description: str = "",
    purposes: Sequence[str] | None = None,
    minimum_cohort: int = 0,
    keep_queries_days: int | None = None,
    finds_parts: bool = True,
) -> Collection:
    """Make a collection, with grants for who made it (owner) and for the command line (curator).

    An administrator reads nothing by being one: these grants can be seen, changed and revoked
    like any other. Raises NameTaken.
    """
    with transaction.atomic():
        if Collection.objects.filter(name=name).exists():
            raise NameTaken("there is a collection of that name")
        collection = Collection.objects.create(
            name=name,
            profile=profile,
            description=description,
            purposes=list(purposes or default_purposes()),
            minimum_cohort=minimum_cohort,
            keep_queries_days=keep_queries_days,
            finds_parts=finds_parts,
        )
        audit.record_in_transaction(
            Kind.COLLECTION_CHANGED, actor=actor, collection=collection.pk, change="opened"
        )
        operator = User.objects.get(username=OPERATOR)
        roles = {operator: Role.CURATOR} | {actor: Role.OWNER}
        for user, role in roles.items():
            give_grant(collection, role, collection.purposes, user=user, granted_by=actor)
    return collection


def give_grant(
    collection: Collection,
    role: Role,
    purposes: Sequence[str],
    *,
    granted_by: User,
    user: User | None = None,
    group: Group | None = None,
    valid_until: datetime | None = None,
) -> Grant:
    """Grant a role, on the log in the same transaction."""
    with transaction.atomic():
        given = Grant.objects.create(
            user=user,
            group=group,
            collection=collection,
            role=role,
            purposes=list(purposes),
            valid_until=valid_until,
            granted_by=granted_by,
        )
        audit.record_in_transaction(
            Kind.GRANT_CHANGED,
            actor=granted_by,
            grant=given.pk,
            collection=collection.pk,
            user=None if user is None else user.pk,
            group=None if group is None else group.pk,
            role=role.value,
            purposes=list(purposes),
            change="given",
        )
    return given


def find_trainer(username: str, collection: Collection) -> User:
    """Who trains on a collection: one who may take images in there, for administration.

    As a worker's role, which reads neither users nor grants: only the id comes back. Raises
    AccessDenied.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT cloister_trainer(%s, %s)", [username, collection.pk])
        (user_id,) = cursor.fetchone()
    if user_id is None:
        raise AccessDenied("there is no such user, or not with that right in that collection")
    return User(pk=user_id)


def require_bound_role() -> None:
    """Raise ServicesUnavailable where the database would not hold this process to its policies.

    A superuser, a role with BYPASSRLS, and an owner of the tables (or a member of its role)
    could all read past row-level security or take it off.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            """
            SELECT r.rolsuper OR r.rolbypassrls OR pg_has_role(r.oid, c.relowner, 'MEMBER')
            FROM pg_roles r, pg_class c
            WHERE r.rolname = current_user AND c.oid = 'retrieval_image'::regclass
            """
        )
        (unbound,) = cursor.fetchone()
        cursor.execute(
            "SELECT count(*) FROM pg_class WHERE relname = ANY(%s)"
            " AND relrowsecurity AND relforcerowsecurity",
            [PROTECTED_TABLES],
        )
        (protected,) = cursor.fetchone()
    if unbound or protected != len(PROTECTED_TABLES):
        raise ServicesUnavailable("this database role is not bound by row-level security")


PROTECTED_TABLES = [
    "retrieval_image",
    "retrieval_subject",
    "retrieval_importbatch",
    "retrieval_work",
    "retrieval_embedding",
    "retrieval_auditevent",
    "retrieval_budget",
    "retrieval_budgetproposal",
    "retrieval_reservation",
    "retrieval_subjectgroup",
    "retrieval_subjectgroupmember",
    "retrieval_certificate",
    "retrieval_reviewbox",
    "retrieval_breakglass",
    "retrieval_keptquery",
    "retrieval_indexpart",
    "retrieval_upload",
    "retrieval_idempotentanswer",
    "retrieval_tagword",
    "retrieval_tagthreshold",
    "retrieval_automatictag",
    "retrieval_report",
]
