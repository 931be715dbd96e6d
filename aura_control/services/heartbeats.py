"""What machines report, and what follows from it: health, states, what they still lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aura_control.db.models import Delivery, Instance
from aura_control.db.models import InstanceState as S
from aura_control.db.transaction import Transaction
from aura_control.ports import Workflows
from aura_control.services.conduct import Conduct, take_conduct
from aura_control.services.delivery import (
    POLICY,
    catch_up,
    half_installed,
    lacking,
    reconcile_skills,
)
from aura_control.services.enrolment import PROGRESS, provision_id
from aura_core.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = [
    "MISSED",
    "Health",
    "heartbeat",
    "judge",
    "mark_silent",
    "settled",
    "tell_progress",
]

MISSED = 3
"""Heartbeats that a machine may miss before it counts as degraded."""


class _Runtime(BaseModel):
    model_config = ConfigDict(extra="allow")

    ready: bool = False


class _Credential(BaseModel):
    model_config = ConfigDict(extra="allow")

    state: str = "missing"


class Health(BaseModel):
    """The parts of a machine's report that something follows from; the rest is kept as it came."""

    model_config = ConfigDict(extra="allow")

    runtime: _Runtime = _Runtime()
    credentials: dict[str, _Credential] = Field(default_factory=dict)
    skills: dict[str, str] = Field(default_factory=dict)


def judge(health: Health) -> str | None:
    """Why a machine is degraded; None when it is well."""
    if not health.runtime.ready:
        return "The runtime is not ready."
    for provider, credential in sorted(health.credentials.items()):
        if credential.state != "usable":
            return f"The credential for {provider} is {credential.state}."
    return None


async def heartbeat(
    services: Services,
    tx: Transaction,
    *,
    instance: Instance,
    issued_at: int,
    revisions: Mapping[str, int],
    report: Mapping[str, Any],
    conduct: Conduct,
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Takes in a heartbeat; the subjects that the machine lacks, and what answers the conduct.

    ``issued_at`` (milliseconds, the machine's clock) strictly increases: raises Conflict for a
    heartbeat that was recorded and sent again. Raises InvalidInput for a report in another form.
    """
    try:
        health = Health.model_validate(report)
    except ValidationError as error:
        fields = {
            ".".join(("health", *map(str, part["loc"]))): part["msg"]
            for part in error.errors(include_url=False, include_input=False)
        }
        raise InvalidInput("The report has another form.", fields=fields) from None
    fresh = await tx.instances.heartbeat(
        tenant_id=instance.tenant_id,
        instance_id=instance.id,
        issued_at=issued_at,
        health=report,
    )
    if not fresh:
        raise Conflict("A newer heartbeat of this machine was seen already.")
    wanted = await services.skills.wanted(tx, instance)
    await reconcile_skills(tx, instance=instance, wanted=wanted, observed=health.skills)
    missing = await catch_up(tx, instance=instance, observed=revisions)
    half = await half_installed(tx, instance=instance, wanted=wanted)
    await _move(tx, instance, judge(health) or _needs_new_machine(half))
    return missing, await take_conduct(tx, instance=instance, conduct=conduct)


def _needs_new_machine(folders: Sequence[str]) -> str | None:
    if not folders:
        return None
    return (
        f"Services, routes or files of {', '.join(folders)} came after the machine was made:"
        " deploy the agent anew to have them."
    )


async def tell_progress(workflows: Workflows, instance: Instance) -> None:
    """Wakes the workflow that waits for a new machine. Called after each commit until it runs, so
    that a message that was lost in a crash is made good by the next heartbeat."""
    if instance.state is S.ENROLLING:
        await workflows.send(provision_id(instance.id), PROGRESS, "heartbeat")


def settled(instance: Instance, rows: Sequence[Delivery]) -> bool:
    """Whether a new machine is what it should be: its runtime works and it holds what it can.

    A delivery that failed for a reason of its own (a credential that does not open) does not keep
    the agent from running; its permissions do, since without them it can do nothing.
    """
    try:
        ready = Health.model_validate(instance.health).runtime.ready
    except ValidationError:
        return False
    observed = {row.subject: row.desired_revision for row in rows}
    open_subjects = set(lacking(rows, observed))
    waiting = {row.subject for row in rows if row.last_error is None or row.subject == POLICY}
    return ready and not open_subjects & waiting


async def mark_silent(services: Services) -> int:
    """Marks machines whose heartbeats stopped as degraded; how many."""
    seconds = MISSED * services.settings.heartbeat_seconds
    marked = 0
    async with services.database.transaction() as tx:
        silent = await tx.instances.silent(
            states=(S.RUNNING,), since=tx.now - timedelta(seconds=seconds)
        )
        for instance in silent:
            marked += await tx.instances.transition(
                tenant_id=instance.tenant_id,
                instance_id=instance.id,
                from_states=(S.RUNNING,),
                to_state=S.DEGRADED,
                reason=f"No heartbeat for more than {seconds} seconds.",
            )
    return marked


async def _move(tx: Transaction, instance: Instance, reason: str | None) -> None:
    if instance.state is S.RUNNING and reason is not None:
        target = S.DEGRADED
    elif instance.state is S.DEGRADED and reason is None:
        target = S.RUNNING
    elif instance.state is S.DEGRADED and reason != instance.state_reason:
        target = S.DEGRADED
    else:
        return
    await tx.instances.transition(
        tenant_id=instance.tenant_id,
        instance_id=instance.id,
        from_states=(instance.state,),
        to_state=target,
        reason=reason,
        actor=f"vm:{instance.id}",
    )
