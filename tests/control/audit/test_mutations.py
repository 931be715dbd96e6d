"""Each kind of tampering is found as what it is. A thousand of each: ``make test-storms``."""

from __future__ import annotations

import pytest

from aura_control.cli.output import AUDIT_CODES
from aura_control.db.chain import AuditState
from tests.control.audit.attack import all_found
from tests.control.audit.log import Log, lay_open
from tests.control.audit.mutations import MUTATIONS


@pytest.mark.timeout(300)
async def test_every_kind_of_tampering_is_found(log: Log) -> None:
    await log.live()
    await lay_open(log.database)
    for name in MUTATIONS:
        await all_found(log, MUTATIONS[name], 3, seed=1)


def test_every_state_has_an_exit_code() -> None:
    assert {state.value for state in AuditState} == set(AUDIT_CODES)
    assert [AUDIT_CODES[state.value] for state in AuditState] == [0, 14, 12, 11, 10, 13]
