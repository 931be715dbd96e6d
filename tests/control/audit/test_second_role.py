"""The second database user of docs/audit.md can work, and cannot change what was written."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from aura_control.db.chain import AuditState
from aura_control.db.engine import Database
from aura_core.wire import ControlKeys
from tests.control.audit.log import TENANT, Log
from tests.control.db.conftest import audit_key
from tests.control.db.world import Clock, connect
from tests.postgres import Postgres

DOCUMENT = Path(__file__).parents[3] / "docs" / "audit.md"

REFUSED = (
    "UPDATE audit_logs SET entry = ''",
    "TRUNCATE audit_logs",
    "DELETE FROM audit_anchors",
    "DELETE FROM audit_heads",
    "ALTER TABLE audit_logs DISABLE TRIGGER ALL",
    "DROP TRIGGER audit_logs_no_delete ON audit_logs",
    "SET session_replication_role = replica",
    "CREATE OR REPLACE FUNCTION audit_logs_no_delete() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN RETURN OLD; END $$",
    "DELETE FROM audit_logs",
)


async def test_the_second_user(postgres: Postgres, clock: Clock, tmp_path: Path) -> None:
    url = postgres.create(template="aura")
    section = DOCUMENT.read_text().split("## A second database user")[1]
    statements = re.findall(r"^    (\S.*;)$", section, re.MULTILINE)
    assert len(statements) == 6
    with psycopg.connect(url, autocommit=True) as owner:
        for statement in statements:
            owner.execute(statement.encode())
    own = make_url(url).set(username="aura_service").render_as_string(hide_password=False)
    database = Database.open(own, audit_key=audit_key, clock=clock)
    try:
        await _works(Log(
            database=database, clock=clock, directory=tmp_path, signing=ControlKeys.generate()
        ))  # fmt: skip
        for statement in REFUSED:
            with pytest.raises(DBAPIError, match=r"denied|must be owner|append-only"):
                async with database.transaction() as tx:
                    await tx.session.execute(text(statement))
    finally:
        await database.close()


async def _works(log: Log) -> None:
    async with log.database.transaction() as tx:
        (user,) = (await tx.session.execute(text("SELECT current_user"))).scalars()
        assert user == "aura_service"
        await tx.tenants.create(tenant_id=TENANT, name="", kdf_salt=bytes(32), actor="system")
        await tx.users.create(
            tenant_id=TENANT, user_id="u1", email="u1@example.org", actor="system"
        )
    await connect(log.database)
    await log.checkpoint()
    log.clock.forward(days=91)
    assert await log.prune() == 3
    await log.write(3)
    assert (await log.verify()).state is AuditState.WHOLE
