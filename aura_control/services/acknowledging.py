"""Taking in what machines acknowledge: the proof of what each holds, or holds no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aura_control.db.connection import Connection
from aura_control.db.models import DeliveryOp, Instance
from aura_control.db.outbox import Key, Receipt
from aura_control.db.transaction import Transaction
from aura_core.wire import Ack

__all__ = ["take_ack", "take_acks"]


async def take_ack(tx: Transaction, *, instance: Instance, ack: Ack) -> bool:
    """Takes in a verified acknowledgement of the machine's own; whether it now holds what it
    should of the subject."""
    (settled,) = await take_acks(tx, [(instance, ack)])
    return settled


async def take_acks(tx: Transaction, acks: Sequence[tuple[Instance, Ack]]) -> Sequence[bool]:
    """:func:`take_ack` for many machines at once, in order."""
    receipts = [
        Receipt(
            key=Key(instance.id, ack.connection_id),
            tenant_id=instance.tenant_id,
            revision=ack.revision,
            digest=ack.digest,
        )
        for instance, ack in acks
    ]
    outcomes = await tx.deliveries.acknowledge(receipts)
    connections: dict[str, Connection | None] = {}
    for (instance, ack), outcome in zip(acks, outcomes, strict=True):
        if not (outcome.settled and outcome.changed and outcome.op is not None):
            continue
        subject = ack.connection_id
        common = {"subject": subject, "op": outcome.op.value, "revision": ack.revision}
        names: dict[str, Any] = {
            "tenant_id": instance.tenant_id,
            "user_id": instance.user_id,
            "agent_id": instance.agent_id,
            "instance_id": instance.id,
        }
        tx.events.append(**names, kind="delivery.acknowledged", data=common)
        if outcome.op is not DeliveryOp.DELETE:
            continue
        if subject not in connections:
            connections[subject] = await tx.integrations.find(
                tenant_id=instance.tenant_id, connection_id=subject
            )
        connection = connections[subject]
        # A machine can be told to forget another user's connection, which it claimed to hold:
        # what that is called is none of its user's business.
        if connection is not None and connection.user_id == instance.user_id:
            data = {"connection_id": subject, "provider": connection.provider}
            tx.events.append(**names, kind="connection.wiped", data=data)
    return [outcome.settled for outcome in outcomes]
