"""Making the message of one delivery: its plaintext, sealed to the machine and signed.

The message of a revision is made once and stored. Sealing is randomised, so making it again would
give another digest, which the machine rightly takes for a forgery.
"""

from __future__ import annotations

import json
from base64 import b64encode

from aura_control.db.columns import milliseconds
from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState, Delivery, DeliveryOp, Instance
from aura_control.db.transaction import Transaction
from aura_control.services.delivery import (
    POLICY,
    SKILL_PREFIX,
    reconcile_skills,
    skill_fingerprint,
)
from aura_control.services.keys import Vault
from aura_control.services.providers import Providers
from aura_control.services.skills import Skills
from aura_core.errors import NotFound
from aura_core.permissions import AgentPermissions
from aura_core.skills import pack_skills
from aura_core.wire import PushHeader, push_digest, seal_push

__all__ = ["Sealer"]


class Sealer:
    """Makes messages. Every call works in the caller's transaction."""

    def __init__(
        self,
        *,
        vault: Vault,
        providers: Providers,
        skills: Skills,
    ) -> None:
        self._vault = vault
        self._providers = providers
        self._skills = skills

    async def sealed(self, tx: Transaction, *, instance: Instance, subject: str) -> Delivery | None:
        """The delivery with its message, made now if there is none.

        None: there is nothing to send any more, or the machine has not joined. Raises
        ``EnvelopeError`` for a credential that does not open, ``MessageTooLarge`` for a skill that
        does not fit in a message, and ``PluginError``.
        """
        row = await self._get(tx, instance, subject)
        if row is None or instance.enc_public is None or instance.recipient_kid is None:
            return None
        if row.message is not None:
            return row
        plaintext = await self._plaintext(tx, instance, row)
        if plaintext is None:
            # Nothing of it may be on the machine: that is a wish of its own, with its revision.
            await tx.deliveries.desire(
                tenant_id=instance.tenant_id,
                instance_id=instance.id,
                subject=subject,
                op=DeliveryOp.DELETE,
                source_revision=row.source_revision,
            )
            row, plaintext = await self._get(tx, instance, subject), b""
            if row is None:
                return None
        header = PushHeader(
            instance_id=instance.id,
            recipient_kid=instance.recipient_kid,
            connection_id=subject,
            op=row.op.value,
            revision=row.desired_revision,
            issued_at=milliseconds(tx.now),
            signer_kid=self._vault.signing.signer_kid,
        )
        message = seal_push(
            header,
            plaintext,
            recipient_public=instance.enc_public,
            signer=self._vault.signing,
        )
        # False: another process stored its message first. That one counts, and is read below.
        await tx.deliveries.store_message(
            tenant_id=instance.tenant_id,
            instance_id=instance.id,
            subject=subject,
            revision=row.desired_revision,
            message=message,
            digest=push_digest(message),
        )
        return await self._get(tx, instance, subject)

    async def _get(self, tx: Transaction, instance: Instance, subject: str) -> Delivery | None:
        return await tx.deliveries.get(
            tenant_id=instance.tenant_id, instance_id=instance.id, subject=subject
        )

    async def _plaintext(self, tx: Transaction, instance: Instance, row: Delivery) -> bytes | None:
        """What the machine should hold; empty for a deletion, None when there is nothing."""
        if row.op is DeliveryOp.DELETE:
            return b""
        if row.subject == POLICY:
            agent = await tx.agents.get(tenant_id=instance.tenant_id, agent_id=instance.agent_id)
            return AgentPermissions.model_validate(agent.permissions).model_dump_json().encode()
        if row.subject.startswith(SKILL_PREFIX):
            return await self._skill(tx, instance, row)
        return await self._credential(tx, instance, row)

    async def _skill(self, tx: Transaction, instance: Instance, row: Delivery) -> bytes | None:
        folder = row.subject.removeprefix(SKILL_PREFIX)
        skill = (await self._skills.wanted(tx, instance)).get(folder)
        if skill is None or skill_fingerprint(skill.digest) != row.source_revision:
            return None
        archive = b64encode(pack_skills([skill.manifest])).decode()
        return json.dumps({"kind": "skill", "dir": folder, "archive": archive}).encode()

    async def _credential(self, tx: Transaction, instance: Instance, row: Delivery) -> bytes | None:
        try:
            connection = await tx.integrations.by_id(
                tenant_id=instance.tenant_id, connection_id=row.subject
            )
        except NotFound:
            return None
        if connection.state is ConnectionState.DISCONNECTED:
            return None
        if instance.last_heartbeat_at is not None:
            # A new connection brings its skill. A machine that was not heard of yet has most of
            # its skills from the user-data; what it lacks shows at its first heartbeat.
            await reconcile_skills(
                tx,
                instance=instance,
                wanted=await self._skills.wanted(tx, instance),
                observed=instance.health.get("skills", {}),
            )
        return await self._payload(tx, connection)

    async def _payload(self, tx: Transaction, connection: Connection) -> bytes | None:
        opened, context = self._providers.of(connection)
        envelope = await self._vault.open_envelope(tx, connection)
        payload = opened.adapter.build_vm_credential_payload(
            context, envelope, connection_revision=connection.revision
        )
        return None if payload is None else payload.model_dump_json().encode()
