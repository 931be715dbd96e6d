"""The file of durable work leaves no connection behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.exc import ResourceClosedError

from aura_control.workflows.durable_store import close_store, open_store


def test_a_connection_that_comes_back_late_is_closed(tmp_path: Path) -> None:
    store = open_store(make_url(f"sqlite:///{tmp_path / 'durable.db'}"))
    late = store.connect()
    raw = late.connection.dbapi_connection
    assert raw is not None
    close_store(store)
    late.close()
    with pytest.raises(Exception, match="closed database"):
        raw.execute("SELECT 1")
    with pytest.raises(ResourceClosedError):
        late.execute(text("SELECT 1"))


def test_milliseconds_are_known_whatever_the_systems_sqlite(tmp_path: Path) -> None:
    store = open_store(make_url(f"sqlite:///{tmp_path / 'durable.db'}"))
    with store.connect() as connection:
        now = connection.execute(text("SELECT unixepoch('subsec') * 1000")).scalar_one()
    close_store(store)
    assert now > 1_700_000_000_000
