"""What machines fetch and acknowledge themselves: what makes delivery certain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aura_control.db.models import Instance
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.services.acknowledging import take_ack
from aura_control.services.delivery import catch_up
from aura_control.services.keys import EnvelopeRefused
from aura_control.services.refusals import record
from aura_core.errors import AuraError, InvalidInput, WireError
from aura_core.wire import verify_ack

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["LONGEST_PULL", "Pulled", "acknowledge", "pull"]

LONGEST_PULL = 256 * 1024
"""Bytes of messages in one answer; a machine that lacks more asks again."""

_log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """Messages as the deliverer would push them; ``more`` says that there are others."""

    messages: tuple[dict[str, Any], ...]
    more: bool


async def pull(
    services: Services, tx: Transaction, *, instance: Instance, revisions: Mapping[str, int]
) -> Pulled:
    """The messages of everything that the machine lacks, ``revisions`` being what it holds.

    What cannot be sealed is left out and noted on its row: the rest does not wait for it.
    """
    messages: list[dict[str, Any]] = []
    size = 0
    for subject in await catch_up(tx, instance=instance, observed=revisions):
        try:
            row = await services.sealer.sealed(tx, instance=instance, subject=subject)
        except EnvelopeRefused as refused:
            await _note(tx, instance, subject, await record(tx, services.vault, refused))
            continue
        except AuraError as error:
            await _note(tx, instance, subject, error)
            continue
        if row is None or row.message is None:
            continue
        if messages and size + len(row.message) > LONGEST_PULL:
            return Pulled(messages=tuple(messages), more=True)
        size += len(row.message)
        messages.append(json.loads(row.message))
    return Pulled(messages=tuple(messages), more=False)


async def acknowledge(
    tx: Transaction, *, instance: Instance, acks: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Takes in signed acknowledgements; the subjects of which the machine holds what it should.

    Each carries a signature of its own, although the request has one: it is the receipt that a
    credential arrived or is gone. Raises InvalidInput when one is not this machine's.
    """
    held = []
    for number, document in enumerate(acks):
        try:
            ack = verify_ack(document, instance.sig_public or b"")
        except WireError as error:
            raise InvalidInput(
                "An acknowledgement is refused.", fields={f"acks.{number}": error.message}
            ) from None
        if ack.instance_id != instance.id:
            raise InvalidInput(
                "An acknowledgement is refused.",
                fields={f"acks.{number}": "It is another machine's."},
            )
        if await take_ack(tx, instance=instance, ack=ack):
            held.append(ack.connection_id)
    return tuple(held)


async def _note(tx: Transaction, instance: Instance, subject: str, error: AuraError) -> None:
    row = await tx.deliveries.get(
        tenant_id=instance.tenant_id, instance_id=instance.id, subject=subject
    )
    if row is None:
        return
    _log.warning("seal_failed", subject=subject, instance_id=instance.id, reason=error.message)
    await tx.deliveries.failed(
        tenant_id=instance.tenant_id,
        instance_id=instance.id,
        subject=subject,
        revision=row.desired_revision,
        error=error.message,
        retry_at=max(row.next_attempt_at, tx.now),
    )
