"""A sweep over very many connections: when they are due, and what looking for them costs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from aura_control.db.connection import Slot
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState, ConnectionStatus, Integration, User
from aura_control.services.lifetime import due_at, margin
from aura_core.manifest import AuthMethod
from tests.control.db.conftest import clock, database, postgres, sqlite_template, url, world
from tests.control.db.world import Clock, World
from tests.core.providers import oauth_manifest

__all__ = ["clock", "database", "postgres", "sqlite_template", "url", "world"]

MANY = 100_000
STORED = datetime(2026, 3, 1, 12, tzinfo=UTC)
EXPIRY = STORED + timedelta(hours=1)
REVISION = int(STORED.timestamp() * 1000)


@pytest.fixture
def method() -> AuthMethod:
    return oauth_manifest().auth[0]


def due_times(method: AuthMethod, count: int) -> list[datetime]:
    """When connections are due whose tokens of an hour were all stored at the same moment."""
    slots = (
        Slot(connection_id=f"{number:032x}", revision=REVISION, replaces=None)
        for number in range(count)
    )
    return [at for slot in slots if (at := due_at(slot, EXPIRY, method)) is not None]


def test_a_hundred_thousand_tokens_do_not_return_in_one_second(method: AuthMethod) -> None:
    times = due_times(method, MANY)
    seconds = Counter(int((at - STORED).total_seconds()) for at in times)
    assert len(times) == MANY
    # Fifteen minutes of them, 111 in a second on average; chance makes some seconds fuller.
    assert max(seconds.values()) < 200
    assert 890 <= len(seconds) <= 901
    latest = EXPIRY - margin(EXPIRY, REVISION, method)
    assert min(times) >= latest - timedelta(minutes=15)
    assert max(times) <= latest, "all of them before anybody who asks has to wait"


def test_a_connections_own_place_does_not_change(method: AuthMethod) -> None:
    assert due_times(method, 10) == due_times(method, 10)


async def fill(database: Database, method: AuthMethod, count: int) -> list[datetime]:
    """So many connections of the first tenant, each of a user of its own, all of one moment."""
    times = due_times(method, count)
    async with database.transaction() as tx:
        for first in range(0, count, 5000):
            numbers = range(first, min(first + 5000, count))
            users, rows, states = zip(*(_rows(n, times[n]) for n in numbers), strict=True)
            for table, values in ((User, users), (Integration, rows), (ConnectionStatus, states)):
                await tx.session.execute(insert(table), values)
        if database.dialect == "postgresql":
            await tx.session.execute(text("ANALYZE"))
    return times


def _rows(number: int, due: datetime) -> tuple[dict[str, Any], ...]:
    name = f"{number:032x}"
    user = {"id": name, "tenant_id": "t1", "email": f"{name}@example.org", "created_at": STORED}
    row = {
        "id": name,
        "user_id": name,
        "provider": f"p{number % 7}",
        "access_token": "sealed" * 40,
        "refresh_token": "sealed" * 40,
        "token_expiry": EXPIRY,
        "scopes": [],
        "metadata_": {},
        "created_at": STORED,
        "updated_at": STORED,
    }
    state = {
        "integration_id": name,
        "tenant_id": "t1",
        "state": ConnectionState.CONNECTED,
        "auth_method": "oauth2",
        "config": {},
        "revision": REVISION,
        "renew_at": due,
        "updated_at": STORED,
    }
    return user, row, state


async def plan(database: Database, asked: Sequence[tuple[str, Any]]) -> str:
    """How the database would answer the statements."""
    word = "EXPLAIN QUERY PLAN " if database.dialect == "sqlite" else "EXPLAIN "
    lines = []
    async with database.reading() as tx:
        connection = await tx.session.connection()
        for statement, parameters in asked:
            found = await connection.exec_driver_sql(word + statement, parameters)
            lines += [str(row) for row in found]
    return "\n".join(lines)


async def sweep_through(database: Database, method: AuthMethod, count: int) -> dict[str, float]:
    """Looks as a sweep does, early and late; seconds for the looks."""
    times = sorted(await fill(database, method, count))
    asked: list[tuple[str, Any]] = []
    engine = database._engine.sync_engine

    def note(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, _m: Any) -> None:
        if "renew_at" in statement:
            asked.append((statement, parameters))

    took = {}
    event.listen(engine, "before_cursor_execute", note)
    try:
        began = time.perf_counter()
        async with database.reading() as tx:
            assert await tx.integrations.due(before=STORED) == []
            assert await tx.integrations.next_due(after=STORED) == times[0]
        took["nothing due"] = time.perf_counter() - began
        first = asked[:2]
        began, seen, after = time.perf_counter(), 0, None
        while True:
            async with database.reading() as tx:
                page = await tx.integrations.due(before=EXPIRY, after=after, excluding=["p0"])
            assert [row.renew_at for row in page] == sorted(row.renew_at or STORED for row in page)
            seen += len(page)
            if len(page) < 500:
                break
            after = (page[-1].renew_at or STORED, page[-1].id)
        took["all due"] = time.perf_counter() - began
        assert seen == sum(1 for number in range(count) if number % 7)
    finally:
        event.remove(engine, "before_cursor_execute", note)
    told = await plan(database, [*first, asked[3]])
    assert told.count("ix_connection_states_renew_at_integration_id") == 3, told
    for word in ("SCAN connection_states\n", "SCAN integrations", "TEMP B-TREE", "Seq Scan"):
        assert word not in told + "\n", told
    return took


async def test_looking_for_what_is_due_reads_no_more_than_that(
    database: Database, world: World, clock: Clock, method: AuthMethod
) -> None:
    await sweep_through(database, method, 10_000)


@pytest.mark.storm
async def test_looking_through_a_hundred_thousand(
    database: Database, world: World, clock: Clock, method: AuthMethod
) -> None:
    took = await sweep_through(database, method, MANY)
    assert took["nothing due"] < 1
    assert took["all due"] < 60, took
    print(database.dialect, took)  # noqa: T201 - the figures are the point
