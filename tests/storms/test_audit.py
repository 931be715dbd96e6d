"""A thousand attempts at an audit log of each kind, on both databases: all are found."""

from __future__ import annotations

import pytest

from tests.control.audit.attack import all_found
from tests.control.audit.conftest import (
    clock,
    database,
    log,
    postgres,
    sqlite_template,
    url,
    world,
)
from tests.control.audit.log import Log, lay_open
from tests.control.audit.mutations import MUTATIONS

__all__ = ["clock", "database", "log", "postgres", "sqlite_template", "url", "world"]

pytestmark = pytest.mark.storm


@pytest.mark.parametrize("name", MUTATIONS)
async def test_a_thousand_are_found(log: Log, name: str) -> None:
    await log.live()
    await lay_open(log.database)
    await all_found(log, MUTATIONS[name], 1000, seed=2)
