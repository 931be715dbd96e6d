"""How a machine becomes known and stays known: joining, quarantine, heartbeats."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import select, update

from aura_control.db.models import Instance
from aura_control.db.repositories.base import Repository
from aura_control.db.repositories.deliveries import Deliveries
from aura_core.errors import NotFound

__all__ = ["Enrolment", "JoinOutcome"]


class JoinOutcome(StrEnum):
    """What a join request came to."""

    JOINED = "joined"
    REPEATED = "repeated"
    """Same token, same keys: the machine lost the answer and gets it again."""
    REFUSED = "refused"
    """No such instance, a wrong or an expired token."""
    QUARANTINED = "quarantined"
    """Same token, other keys: two machines claim to be this instance."""


class Enrolment(Repository):
    """What a machine says of itself."""

    async def by_id_for_vm(self, instance_id: str) -> Instance | None:
        """The instance that a request claims to come from; its signature is checked next."""
        return await self._one(select(Instance).where(Instance.id == instance_id))

    async def issue_join_token(
        self, *, tenant_id: str, instance_id: str, token_hash: str, expires_at: datetime
    ) -> None:
        """Sets the single-use join token (SHA-256, hexadecimal) and forgets an earlier machine."""
        instance = await self._one(
            update(Instance)
            .where(Instance.id == instance_id, Instance.tenant_id == tenant_id)
            .values(
                join_token_hash=token_hash,
                join_expires_at=expires_at,
                join_used_at=None,
                enc_public=None,
                sig_public=None,
                recipient_kid=None,
                gateway_token=None,
                updated_at=self._now,
            )
            .returning(Instance)
        )
        if instance is None:
            raise NotFound("There is no such instance.")
        await self._announce(instance, "instance.join_token_issued", "system", {})

    async def record_join(
        self,
        *,
        instance_id: str,
        token_hash: str,
        enc_public: bytes,
        sig_public: bytes,
        recipient_kid: str,
        gateway_token: str,
    ) -> JoinOutcome:
        """Spends the join token on these keys; ``gateway_token`` is sealed.

        The request's signature was verified before: it proves that the sender has the keys. The
        token finds the tenant. Spending it is one UPDATE, so that of two machines one joins.
        What the machine should hold is wanted anew, to be sealed to its keys.
        """
        joined = await self._one(
            update(Instance)
            .where(
                Instance.id == instance_id,
                Instance.join_token_hash == token_hash,
                Instance.join_used_at.is_(None),
                Instance.join_expires_at > self._now,
                Instance.quarantined_reason.is_(None),
            )
            .values(
                join_used_at=self._now,
                enc_public=enc_public,
                sig_public=sig_public,
                recipient_kid=recipient_kid,
                gateway_token=gateway_token,
                updated_at=self._now,
            )
            .returning(Instance)
        )
        if joined is not None:
            actor = f"vm:{instance_id}"
            await self._announce(joined, "instance.joined", actor, {"recipient_kid": recipient_kid})
            await Deliveries(self._session, self._journal, self._now).renew(
                tenant_id=joined.tenant_id, instance_id=instance_id
            )
            return JoinOutcome.JOINED
        return await self._judge_again(instance_id, token_hash, enc_public, sig_public)

    async def _judge_again(
        self, instance_id: str, token_hash: str, enc_public: bytes, sig_public: bytes
    ) -> JoinOutcome:
        """A token that was not spent now: was it spent by the same machine, or by another?"""
        instance = await self.by_id_for_vm(instance_id)
        if (
            instance is None
            or instance.join_token_hash is None
            or instance.join_used_at is None
            or not hmac.compare_digest(instance.join_token_hash, token_hash)
        ):
            return JoinOutcome.REFUSED
        if instance.quarantined_reason is not None:
            return JoinOutcome.QUARANTINED
        if (instance.enc_public, instance.sig_public) == (enc_public, sig_public):
            return JoinOutcome.REPEATED
        await self.quarantine(
            tenant_id=instance.tenant_id,
            instance_id=instance_id,
            reason="A second machine presented the join token with other keys.",
        )
        return JoinOutcome.QUARANTINED

    async def quarantine(self, *, tenant_id: str, instance_id: str, reason: str) -> bool:
        """Stops all deliveries to the machine; the first reason stays."""
        instance = await self._one(
            update(Instance)
            .where(
                Instance.id == instance_id,
                Instance.tenant_id == tenant_id,
                Instance.quarantined_reason.is_(None),
            )
            .values(quarantined_reason=reason, updated_at=self._now)
            .returning(Instance)
        )
        if instance is None:
            return False
        await self._announce(instance, "instance.quarantined", "system", {"reason": reason})
        return True

    async def heartbeat(
        self, *, tenant_id: str, instance_id: str, issued_at: int, health: Mapping[str, Any]
    ) -> bool:
        """Remembers a heartbeat; False when ``issued_at`` (milliseconds) is not newer: a replay.

        It is an observation and no change of state: it is not audited, and ``updated_at`` stays.
        """
        return await self._changed(
            update(Instance)
            .where(
                Instance.id == instance_id,
                Instance.tenant_id == tenant_id,
                Instance.heartbeat_issued_at < issued_at,
            )
            .values(heartbeat_issued_at=issued_at, last_heartbeat_at=self._now, health=dict(health))
        )

    async def alarm(self, instance: Instance, action: str, data: Mapping[str, Any]) -> None:
        """Tells the owner, and the audit log, of something about the machine that changes no row
        and that nobody should miss."""
        await self._announce(instance, action, "system", data)

    async def _announce(
        self, instance: Instance, action: str, actor: str, data: Mapping[str, Any]
    ) -> None:
        """The event for those who watch and the entry for those who must be sure."""
        self._journal.publish(
            instance.tenant_id,
            user_id=instance.user_id,
            agent_id=instance.agent_id,
            instance_id=instance.id,
            kind=action,
            data=data,
        )
        await self._journal.audit(
            instance.tenant_id,
            action=action,
            actor=actor,
            target=f"instance:{instance.id}",
            agent_id=instance.agent_id,
            metadata=data,
        )
