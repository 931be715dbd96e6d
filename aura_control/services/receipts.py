"""The receipt of a disconnect: what became of each token, and of what each machine held."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from aura_control.db.models import ConnectionState, Delivery, DeliveryOp, Instance
from aura_control.db.models import InstanceState as S
from aura_control.services.connections import ConnectionView

__all__ = ["receipt_of"]


def receipt_of(view: ConnectionView) -> dict[str, Any] | None:
    """The receipt as it stands now; None while the connection is in use.

    ``tokens`` have an ``outcome`` (``pending``, ``revoked``, ``already_invalid``, ``not_offered``,
    ``failed``), the time of it, what the provider said, and ``retry_at`` when it is asked again.
    ``machines`` have a ``state``: ``wiped`` (the machine signed that it forgot), ``destroyed`` (the
    compute said that there is no such machine any more), ``never_held``, ``pending`` or ``failed``.
    ``complete`` says that nothing of it will change.
    """
    receipt = view.connection.receipt
    if view.connection.state is not ConnectionState.DISCONNECTED or receipt is None:
        return None
    tokens = [
        {name: value for name, value in line.items() if name != "revision"}
        for line in receipt["tokens"]
    ]
    machines = [_wipe(row, view.instances.get(row.instance_id)) for row in view.deliveries]
    open_tokens = any(line["outcome"] == "pending" or line.get("retry_at") for line in tokens)
    open_machines = any(line["state"] in ("pending", "failed") for line in machines)
    return {
        "disconnected_at": receipt["disconnected_at"],
        "tokens": tokens,
        "machines": machines,
        "complete": not open_tokens and not open_machines,
    }


def _wipe(row: Delivery, instance: Instance | None) -> dict[str, Any]:
    """One machine. ``at`` is the time of what ``state`` says; ``acked_at`` that of the machine's
    own word, where there is one."""
    if row.op is DeliveryOp.DELETE and row.acked_revision == row.desired_revision:
        return _line(row, "wiped", at=row.acked_at, acked_at=row.acked_at)
    if instance is None:
        return _line(row, "pending", detail="Nothing is known of the machine.")
    if instance.state is S.DESTROYED:
        return _line(row, "destroyed", at=instance.updated_at, detail=_DISK)
    if instance.join_used_at is None:
        return _line(row, "never_held", detail="The machine never got a credential.")
    if instance.state is S.FAILED and instance.external_id is None:
        return _line(row, "destroyed", at=instance.updated_at, detail=_DISK)
    if instance.state is S.FAILED:
        return _line(row, "failed", detail=f"{instance.state_reason or 'It failed.'} {_SWEPT}")
    return _line(row, "pending", detail=_waits_for(instance))


_DISK = "The machine is gone, and its disk with it: its compute confirmed it."
_SWEPT = "The machine is destroyed as soon as its compute can be reached."


def _waits_for(instance: Instance) -> str:
    if instance.quarantined_reason is not None:
        return "The machine is quarantined and gets no messages; destroy its agent."
    if instance.state is S.DESTROYING:
        return "The machine is being destroyed."
    if instance.state is S.SUSPENDED:
        return "The machine is suspended; it forgets when it is resumed, or is destroyed."
    return "The machine has not answered yet."


def _line(
    row: Delivery,
    state: str,
    *,
    at: datetime | None = None,
    acked_at: datetime | None = None,
    detail: str = "",
) -> dict[str, Any]:
    return {
        "instance_id": row.instance_id,
        "state": state,
        "at": at.isoformat() if at else None,
        "acked_at": acked_at.isoformat() if acked_at else None,
        "detail": detail,
    }
