"""Everything that is sealed, wherever it stands: for counting, and for sealing it under a new key.

What an envelope is sealed under stands at its beginning, in the one form that is accepted, so rows
are found by that without opening any.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Select,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    or_,
    select,
    update,
)

from aura_control.db.columns import Base
from aura_control.db.connection import Connection, SealedTokens, envelope_digest
from aura_control.db.models import AuditLog, ConnectionStatus, Integration, Tenant
from aura_control.db.repositories.connection_rows import ConnectionRows
from aura_core.crypto import Identity

__all__ = ["CONNECTIONS", "PLACES", "Place", "Sealed", "SealedRow"]

_HEAD = '{"v":1,"kid":"'
_KID_LENGTH = 11
"""A key's id and the quotation mark behind it, at most."""

_ROWS = Base.metadata.tables[Integration.__tablename__]

CONNECTIONS = "connections"
"""The tokens of connections, which have a digest beside them, as a place."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """One sealed column of a table, and what its values are bound to."""

    name: str
    table: str
    column: str
    key: tuple[str, ...]
    """The primary key's columns."""
    owner: str = "tenant_id"
    """The column with the tenant's id."""
    field: str
    bound_to: str = "{key}"
    """The ``connection_id`` of the identity, from the primary key's first column."""
    revision: str | None = None
    """The column with the revision of the identity; without one it is 0."""

    def identity(self, row: SealedRow) -> Identity:
        """What a row's value was sealed as."""
        return Identity(
            tenant_id=row.tenant_id,
            connection_id=self.bound_to.format(key=row.bound),
            field=self.field,
            revision=row.revision,
        )


@dataclass(frozen=True, kw_only=True)
class SealedRow:
    """One sealed value of a place."""

    tenant_id: str
    key: str
    """The whole primary key, as one text."""
    bound: str
    revision: int
    stored: str


PLACES = (
    Place(
        name="gateway_tokens",
        table="instances",
        column="gateway_token",
        key=("id",),
        field="gateway_token",
    ),
    Place(
        name="verifiers",
        table="oauth_transactions",
        column="verifier",
        key=("state_hash",),
        field="verifier",
        bound_to="oauth:{key}",
    ),
    Place(
        name="revocations",
        table="pending_revocations",
        column="sealed",
        key=("connection_id", "revision"),
        field="revocation",
        revision="revision",
    ),
    Place(
        name="audit_keys",
        table="tenants",
        column="audit_key",
        key=("id",),
        owner="id",
        field="audit_key",
    ),
)


class Sealed(ConnectionRows):
    """Sealed values of all tenants that are not shredded, for the operator's keys."""

    async def counts(self) -> Mapping[str, Mapping[str, int]]:
        """How many rows of each place are sealed under each key; those under none that can be
        read from the row, at the empty id. A connection under two keys counts for both."""
        found: dict[str, Mapping[str, int]] = {
            CONNECTIONS: await self._counted(_ROWS.c.access_token, _ROWS.c.refresh_token)
        }
        for place in PLACES:
            found[place.name] = await self._counted(_column(place))
        return found

    async def connections(
        self, kids: Sequence[str], *, under: bool, after: str = "", limit: int = 200
    ) -> Sequence[Connection]:
        """Connections by id beyond ``after`` with a token sealed ``under`` one of the keys, or
        under any other one; locked until the transaction ends."""
        wanted = or_(
            _sealed_under(_ROWS.c.access_token, kids, under),
            _sealed_under(_ROWS.c.refresh_token, kids, under),
        )
        ids = (
            select(Integration.id)
            .join(ConnectionStatus, ConnectionStatus.integration_id == Integration.id)
            .join(Tenant, Tenant.id == ConnectionStatus.tenant_id)
            .where(Integration.id > after, Tenant.kdf_salt.is_not(None), wanted)
            .order_by(Integration.id)
            .limit(limit)
        )
        found = await self._all(ids)
        # The same lock, and the same first table, as everybody takes who writes a connection; the
        # rows are read once it is held, because another transaction may have committed before.
        await self._all(
            select(ConnectionStatus.integration_id)
            .where(ConnectionStatus.integration_id.in_(found))
            .order_by(ConnectionStatus.integration_id)
            .with_for_update()
        )
        return await self._connections(
            self._rows().where(Integration.id.in_(found)).order_by(Integration.id)
        )

    async def rewrap_connections(
        self, rewrapped: Sequence[tuple[Connection, SealedTokens]], *, kid: str
    ) -> None:
        """Stores the same tokens of locked connections, sealed under ``kid`` and the same
        revision."""
        rows, states = [], []
        for connection, tokens in rewrapped:
            digest = envelope_digest(tokens, connection.revision)
            rows.append({"at": connection.id, "a": tokens.access_token, "r": tokens.refresh_token})
            states.append({"at": connection.id, "was": connection.revision, "digest": digest})
            await self._audit(
                connection.tenant_id,
                connection.id,
                "connection.rewrapped",
                "system",
                revision=connection.revision,
                envelope_digest=digest,
                kid=kid,
            )
        state, row = Base.metadata.tables[ConnectionStatus.__tablename__], _ROWS
        await self._many(
            update(state)
            .where(state.c.integration_id == bindparam("at"), state.c.revision == bindparam("was"))
            .values(envelope_digest=bindparam("digest")),
            states,
        )
        await self._many(
            update(row)
            .where(row.c.id == bindparam("at"))
            .values(access_token=bindparam("a"), refresh_token=bindparam("r")),
            rows,
        )

    async def rows(
        self,
        place: Place,
        kids: Sequence[str],
        *,
        under: bool,
        after: str = "",
        limit: int = 200,
    ) -> Sequence[SealedRow]:
        """Values of a place like :meth:`connections`; locked too."""
        column = _column(place)
        key, owner = _key(place), column.table.c[place.owner]
        revision = literal(0) if place.revision is None else column.table.c[place.revision]
        query = select(
            owner.label("owner"),
            key.label("at"),
            column.table.c[place.key[0]].label("bound"),
            revision.label("revision"),
            column.label("stored"),
        ).where(key > after, _sealed_under(column, kids, under), _alive(owner))
        # Of a tenant's row only the audit key changes. A full lock would also keep others from
        # referring to the row, as each audit entry does, while they hold what this waits for next.
        locked = query.order_by(key).limit(limit).with_for_update(key_share=True)
        found = await self._session.execute(locked)
        return [
            SealedRow(
                tenant_id=row.owner,
                key=row.at,
                bound=row.bound,
                revision=row.revision,
                stored=row.stored,
            )
            for row in found
        ]

    async def rewrap_rows(
        self, place: Place, rewrapped: Sequence[tuple[SealedRow, str]], *, kid: str
    ) -> None:
        """Stores the same values of locked rows, sealed under ``kid``."""
        column = _column(place)
        await self._many(
            update(column.table)
            .where(_key(place) == bindparam("at"), column == bindparam("was"))
            .values({column.name: bindparam("now")}),
            [{"at": row.key, "was": row.stored, "now": stored} for row, stored in rewrapped],
        )
        for tenant_id in sorted({row.tenant_id for row, _ in rewrapped}):
            mine = [row.key for row, _ in rewrapped if row.tenant_id == tenant_id]
            await self._journal.audit(
                tenant_id,
                action="keys.rewrapped",
                actor="system",
                target=place.name,
                metadata={"kid": kid, "rows": mine},
            )

    async def written(self, *, tenant_id: str, connection_id: str) -> Sequence[tuple[int, str]]:
        """Revisions and envelope digests of all writes of the connection that are on record."""
        target = json.dumps(f"connection:{connection_id}")
        entries = await self._all(
            select(AuditLog.entry).where(
                AuditLog.tenant_id == tenant_id,
                AuditLog.entry.contains(f'"target":{target}', autoescape=True),
                AuditLog.entry.contains('"envelope_digest"', autoescape=True),
            )
        )
        found = [json.loads(entry)["metadata"] for entry in entries]
        return [(data["revision"], data["envelope_digest"]) for data in found]

    async def _counted(self, *columns: Column[Any]) -> Mapping[str, int]:
        found: Counter[str] = Counter()
        heads = [func.substr(column, 1, len(_HEAD) + _KID_LENGTH) for column in columns]
        any_of = or_(*(column.is_not(None) for column in columns))
        query: Select[Any] = select(*heads, func.count()).where(any_of).group_by(*heads)
        for *texts, count in await self._session.execute(query):
            for kid in {_kid(text) for text in texts if text is not None}:
                found[kid] += count
        return found

    async def _many(self, statement: Any, rows: Sequence[Mapping[str, Any]]) -> None:
        """One UPDATE for each row. The rows are locked, so each finds its own: anything else is a
        bug, and nothing of it is committed."""
        connection = await self._session.connection()
        done = await connection.execute(statement, [*rows])
        if done.rowcount != len(rows):
            raise RuntimeError(f"{done.rowcount} of {len(rows)} locked rows were written")


def _column(place: Place) -> Column[Any]:
    table: Table = Base.metadata.tables[place.table]
    return table.c[place.column]


def _key(place: Place) -> ColumnElement[str]:
    """The primary key as one text: rows are passed through in its order."""
    columns = _column(place).table.c
    whole: ColumnElement[str] = columns[place.key[0]]
    for name in place.key[1:]:
        whole = whole.concat("/").concat(cast(columns[name], Text))
    return whole


def _alive(owner: ColumnElement[str]) -> ColumnElement[bool]:
    tenant = Tenant.__table__.alias()
    return select(literal(1)).where(tenant.c.id == owner, tenant.c.kdf_salt.is_not(None)).exists()


def _kid(head: str) -> str:
    kid, mark, _ = head.removeprefix(_HEAD).partition('"')
    return kid if head.startswith(_HEAD) and mark else ""


def _sealed_under(
    column: ColumnElement[Any], kids: Sequence[str], under: bool
) -> ColumnElement[bool]:
    heads = [f'{_HEAD}{kid}"' for kid in kids]
    named = [func.substr(column, 1, len(head)) == head for head in heads]
    if under:
        return or_(*named)
    return and_(func.substr(column, 1, len(_HEAD)) == _HEAD, *(~condition for condition in named))
