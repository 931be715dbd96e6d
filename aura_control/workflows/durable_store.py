"""The SQLite file that durable work is written down in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event

__all__ = ["open_store"]


def open_store(url: URL) -> Engine:
    """Opens the file, for its owner only.

    ``synchronous=FULL``: a commit that is lost after a step was done would do the step again.
    ``IMMEDIATE``: a transaction that turns from reading to writing would fail when another one
    wrote meanwhile, whatever the busy timeout.
    """
    Path(str(url.database)).touch(mode=0o600)
    engine = create_engine(
        url.set(drivername="sqlite"),
        connect_args={"isolation_level": "IMMEDIATE", "timeout": 30},
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: object) -> None:
        for pragma in (
            "busy_timeout=30000",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}")

    return engine
