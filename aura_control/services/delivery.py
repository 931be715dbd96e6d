"""What machines should hold: one row in the outbox for each machine and subject.

Everything here runs in the transaction of whatever changed (a connection, an agent, a machine that
was heard of), so a change and the wish to deliver it are one commit. Sealing and sending come
later and may be repeated (``services.deliverer``); a machine that was not reached pulls.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aura_control.db.connection import Connection
from aura_control.db.models import Agent, ConnectionState, Delivery, DeliveryOp, Instance
from aura_control.db.models import InstanceState as S
from aura_control.db.outbox import Key
from aura_control.db.transaction import Transaction
from aura_control.services.surroundings import EVERY_INTEGRATION, Surroundings
from aura_core.skills import VmSkillManifest, skill_digest

if TYPE_CHECKING:
    from aura_control.services.providers import Providers

__all__ = [
    "ALIVE",
    "EVERY_INTEGRATION",
    "POLICY",
    "SKILL_PREFIX",
    "Skill",
    "catch_up",
    "desire_all",
    "desire_credential",
    "desire_deletion",
    "desire_policy",
    "half_installed",
    "lacking",
    "may_use",
    "reconcile_credentials",
    "reconcile_skills",
    "skill_fingerprint",
]

POLICY = "policy"
SKILL_PREFIX = "skill:"

ALIVE = (S.REQUESTED, S.PROVISIONING, S.ENROLLING, S.RUNNING, S.SUSPENDED, S.DEGRADED)

_NOT_GONE = tuple(state for state in S if state is not S.DESTROYED)

_USABLE = (ConnectionState.CONNECTED, ConnectionState.EXPIRING, ConnectionState.UNCERTAIN)


@dataclass(frozen=True, kw_only=True)
class Skill:
    """A skill as it would be packed now; ``digest`` is SHA-256 (hexadecimal) of the archive."""

    manifest: VmSkillManifest
    digest: str

    @classmethod
    def of(cls, manifest: VmSkillManifest) -> Skill:
        return cls(manifest=manifest, digest=skill_digest(manifest))

    @property
    def only_a_folder(self) -> bool:
        """Whether nothing of it lies outside its folder: only that can be delivered later."""
        elsewhere = any(file.path.startswith("/") for file in self.manifest.write_files)
        return not (elsewhere or self.manifest.services or self.manifest.caddy_routes)


async def may_use(tx: Transaction, agent: Agent, provider: str) -> bool:
    """Whether the agent uses its user's connection to the provider."""
    if agent.config.get(EVERY_INTEGRATION):
        return True
    return provider in await tx.agents.providers(tenant_id=agent.tenant_id, agent_id=agent.id)


async def desire_credential(
    tx: Transaction, *, connection: Connection, providers: Providers
) -> None:
    """The connection has a new credential: every machine whose agent uses it should hold it.

    Revisions are taken from the transaction's own clock, so that all rows of one transaction carry
    the same one.
    """
    if not providers.serves_machines(connection.provider):
        return
    machines = await _machines(tx, connection.tenant_id, connection.user_id)
    if not machines:
        return
    surroundings = await Surroundings.read(tx, machines)
    await tx.deliveries.desire_on(
        [one for one in machines if surroundings.may_use(one, connection.provider)],
        subject=connection.id,
        op=DeliveryOp.PUT,
        source_revision=connection.revision,
    )


async def desire_deletion(tx: Transaction, *, connection: Connection) -> None:
    """The connection ended: every machine that holds its credential, or may, should forget it.

    Whether the agent may still use the provider does not matter here: what was once wanted on a
    machine is taken from it. A machine that failed may come back, and then it must not go on
    holding what ended meanwhile.
    """
    machines = await tx.instances.for_user(
        tenant_id=connection.tenant_id, user_id=connection.user_id, states=_NOT_GONE
    )
    rows = await tx.deliveries.at([Key(one.id, connection.id) for one in machines])
    put = {key.instance_id for key, row in rows.items() if row.op is DeliveryOp.PUT}
    await tx.deliveries.desire_on(
        [one for one in machines if one.id in put],
        subject=connection.id,
        op=DeliveryOp.DELETE,
        source_revision=connection.revision,
    )


async def desire_policy(tx: Transaction, *, instance: Instance) -> None:
    """The machine should hold its agent's permissions as they are now."""
    await tx.deliveries.desire(
        tenant_id=instance.tenant_id,
        instance_id=instance.id,
        subject=POLICY,
        op=DeliveryOp.PUT,
    )


async def desire_all(tx: Transaction, *, instance: Instance, providers: Providers) -> None:
    """A new machine should hold its agent's permissions and the credentials that it uses."""
    if await _row(tx, instance, POLICY) is None:
        await desire_policy(tx, instance=instance)
    await reconcile_credentials(tx, instance=instance, providers=providers)


async def reconcile_credentials(
    tx: Transaction, *, instance: Instance, providers: Providers
) -> None:
    """Compares what the agent uses with what is wanted on its machine, and wants the difference.

    Repeating it changes nothing: a row that says what it should is left alone.
    """
    agent = await tx.agents.get(tenant_id=instance.tenant_id, agent_id=instance.agent_id)
    for connection in await tx.integrations.list(
        tenant_id=instance.tenant_id, user_id=instance.user_id
    ):
        row = await _row(tx, instance, connection.id)
        usable = providers.serves_machines(connection.provider) and await may_use(
            tx, agent, connection.provider
        )
        wanted = connection.state in _USABLE and usable
        if wanted and not _says(row, DeliveryOp.PUT, connection.revision):
            op = DeliveryOp.PUT
        elif not wanted and row is not None and row.op is DeliveryOp.PUT:
            # A connection that only waits for its user stays: the machine says so of itself, and
            # what it holds may still work.
            if connection.state is ConnectionState.REAUTH_REQUIRED and usable:
                continue
            op = DeliveryOp.DELETE
        else:
            continue
        await tx.deliveries.desire(
            tenant_id=instance.tenant_id,
            instance_id=instance.id,
            subject=connection.id,
            op=op,
            source_revision=connection.revision,
        )


async def reconcile_skills(
    tx: Transaction,
    *,
    instance: Instance,
    wanted: Mapping[str, Skill],
    observed: Mapping[str, str],
    rows: Sequence[Delivery] | None = None,
) -> None:
    """Wants the skills (by folder) that the machine lacks, and the removal of those too many.
    ``rows`` is the machine's outbox, if the caller has just read it.

    ``observed`` is what the machine said (folder to digest); the user-data brought most of them,
    so only what differs is sent. What a row was made from is kept as ``source_revision``: a
    machine that reports another digest for the same skill is not sent it again and again.
    """
    if rows is None:
        rows = await tx.deliveries.for_instance(
            tenant_id=instance.tenant_id, instance_id=instance.id
        )
    known = {
        row.subject.removeprefix(SKILL_PREFIX): row
        for row in rows
        if row.subject.startswith(SKILL_PREFIX)
    }
    for folder, skill in wanted.items():
        source = skill_fingerprint(skill.digest)
        if observed.get(folder) != skill.digest and not _says(
            known.get(folder), DeliveryOp.PUT, source
        ):
            await _desire_skill(tx, instance, folder, DeliveryOp.PUT, source)
    put = {folder for folder, row in known.items() if row.op is DeliveryOp.PUT}
    for folder in sorted((put | (observed.keys() - known.keys())) - wanted.keys()):
        await _desire_skill(tx, instance, folder, DeliveryOp.DELETE, None)


async def half_installed(
    tx: Transaction, *, instance: Instance, wanted: Mapping[str, Skill]
) -> tuple[str, ...]:
    """Skills (folders) that came or changed after the machine was made and are more than a folder.

    Units, routes and files elsewhere are root's to install, and the daemon is not root: a machine
    gets them when it is composed or not at all. What did not fit into the user-data is different:
    of that, only the folder was left out.
    """
    rows = await tx.deliveries.for_instance(tenant_id=instance.tenant_id, instance_id=instance.id)
    sent = {row.subject for row in rows if row.op is DeliveryOp.PUT}
    return tuple(
        folder
        for folder, skill in sorted(wanted.items())
        if SKILL_PREFIX + folder in sent
        and folder not in instance.left_to_daemon
        and not skill.only_a_folder
    )


async def catch_up(
    tx: Transaction, *, instance: Instance, observed: Mapping[str, int]
) -> tuple[str, ...]:
    """Compares the outbox with the revisions that the machine says it holds; what it lacks.

    Usually a machine is behind, and pulling mends that. It is ahead only where this database was
    put back to an earlier state: then the row is lifted above what the machine holds, because a
    machine never goes back, and what nobody here knows of is deleted there.
    """
    rows = await tx.deliveries.for_instance(tenant_id=instance.tenant_id, instance_id=instance.id)
    known = {row.subject: row for row in rows}
    lifted = False
    for subject, revision in sorted(observed.items()):  # one order for all locks: see outbox
        row = known.get(subject)
        if row is None or row.desired_revision < revision:
            lifted = True
            await tx.deliveries.desire(
                tenant_id=instance.tenant_id,
                instance_id=instance.id,
                subject=subject,
                op=DeliveryOp.DELETE if row is None else row.op,
                source_revision=None if row is None else row.source_revision,
                above=revision,
            )
    if lifted:
        rows = await tx.deliveries.for_instance(
            tenant_id=instance.tenant_id, instance_id=instance.id
        )
    return lacking(rows, observed)


def lacking(rows: Collection[Delivery], observed: Mapping[str, int]) -> tuple[str, ...]:
    """Subjects of which the machine holds another revision, or has not yet acknowledged it."""
    return tuple(
        row.subject
        for row in rows
        if observed.get(row.subject) != row.desired_revision
        or row.acked_revision != row.desired_revision
    )


def skill_fingerprint(digest: str) -> int:
    """A skill's digest as a number that every JSON reader and database keeps exactly."""
    return int(digest[:13], 16)


def _says(row: Delivery | None, op: DeliveryOp, source: int) -> bool:
    return row is not None and row.op is op and row.source_revision == source


async def _desire_skill(
    tx: Transaction, instance: Instance, folder: str, op: DeliveryOp, source: int | None
) -> None:
    await tx.deliveries.desire(
        tenant_id=instance.tenant_id,
        instance_id=instance.id,
        subject=SKILL_PREFIX + folder,
        op=op,
        source_revision=source,
    )


async def _row(tx: Transaction, instance: Instance, subject: str) -> Delivery | None:
    return await tx.deliveries.get(
        tenant_id=instance.tenant_id, instance_id=instance.id, subject=subject
    )


async def _machines(tx: Transaction, tenant_id: str, user_id: str) -> list[Instance]:
    return [*await tx.instances.for_user(tenant_id=tenant_id, user_id=user_id, states=ALIVE)]
