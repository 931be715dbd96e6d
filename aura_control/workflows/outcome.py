"""What a step of a workflow came to, as JSON.

Steps answer with an outcome and do not raise: an exception would be kept in the durable journal
with whatever its text holds, and only the workflow knows how long a failure may go on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aura_control.logs import get_logger
from aura_control.workflows.durable_json import UnexpectedFailure
from aura_control.workflows.engine import Engine
from aura_control.workflows.retries import Retries
from aura_core.errors import AuraError, ComputeError, ProviderUnavailable, RateLimited

__all__ = ["Outcome", "done", "failed", "run_step"]

_log = get_logger(__name__)

_LONGEST_STEP = 300.0
_ONCE = Retries(attempts=1, attempt_seconds=_LONGEST_STEP)

Outcome = dict[str, Any]
"""``{"ok": true, ...}`` or ``{"ok": false, "retry": bool, "reason": str}``."""


def done(**values: Any) -> Outcome:
    return {"ok": True, **values}


def failed(reason: str, *, retry: bool = False) -> Outcome:
    return {"ok": False, "retry": retry, "reason": reason}


async def run_step(engine: Engine, name: str, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Runs the work as a step of the workflow at hand; it always has an outcome."""
    try:
        outcome: Outcome = await engine.step(name, _outcome_of, name, work, retries=_ONCE)
    except (TimeoutError, UnexpectedFailure):  # the second is how the first is read back
        return failed(f"The step {name} took longer than {_LONGEST_STEP:.0f} s.", retry=True)
    return outcome


async def _outcome_of(what: str, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
    try:
        return await work()
    except ComputeError as error:
        _log.warning("step_failed", step=what, reason=str(error))
        return failed(str(error), retry=error.retryable)
    except (ProviderUnavailable, RateLimited) as error:
        _log.warning("step_failed", step=what, reason=str(error))
        return failed(str(error), retry=True)
    except AuraError as error:
        _log.warning("step_failed", step=what, reason=str(error))
        return failed(str(error))
    except Exception:  # noqa: BLE001 - see below
        # Somebody else's code may raise anything; its text may hold anything, so it is not kept.
        _log.exception("step_broke", step=what)
        return failed(f"The step {what} failed unexpectedly; the log says how.", retry=True)
