"""Ending a connection: revoke at the provider, forget here, wipe on machines; with a receipt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState, Delivery
from aura_control.logs import get_logger
from aura_control.services import delivery
from aura_control.services.connections import ConnectionView, find_connection, view_of
from aura_control.services.keys import EnvelopeRefused
from aura_control.services.refusals import refuse
from aura_core.adapter import RevocationResult
from aura_core.errors import AuraError, Conflict

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = ["disconnect", "receipt_of"]

_log = get_logger(__name__)


async def disconnect(services: Services, principal: Principal, provider: str) -> ConnectionView:
    """Ends the user's connection; ending it again answers the same receipt.

    A provider that cannot be reached does not keep the user connected: the receipt says so, and
    what was stored here is gone all the same. Raises NotFound and Conflict.
    """
    async with services.database.reading() as tx:
        connection = await find_connection(tx, principal, provider)
    # The refresher's lock: a token that is being renewed meanwhile would outlive its revocation.
    async with services.locks.hold(f"connection-{connection.id}"):
        async with services.database.transaction() as tx:
            connection = await find_connection(tx, principal, provider)
            if connection.state is ConnectionState.DISCONNECTED:
                return await view_of(tx, connection)
            # Before the provider is asked: if this process dies in between, the audit log says
            # that tokens may be revoked although the connection still looks alive.
            await tx.audit.append(
                principal.tenant_id,
                action="connection.disconnecting",
                actor=principal.actor,
                target=f"connection:{connection.id}",
                metadata={"provider": provider},
            )
        results = await _revoke(services, connection)
        view = await _forget(services, principal, connection, results)
    services.deliverer.wake()
    services.registry.notify(
        "aura_disconnected",
        provider=provider,
        user_id=principal.user_id,
        connection_id=connection.id,
    )
    return view


async def _revoke(services: Services, connection: Connection) -> Sequence[RevocationResult]:
    try:
        integration, ctx = services.providers.of(connection)
        async with services.database.reading() as tx:
            envelope = await services.vault.open_envelope(tx, connection, renewing=True)
        return await integration.adapter.on_disconnect(ctx, envelope)
    except EnvelopeRefused as refused:
        await refuse(services.database, services.vault, refused)
        return _failed(
            f"{refused.message} It could not be revoked: end it in the settings of"
            f" {connection.provider}."
        )
    except AuraError as error:
        # The plugin is gone, or the credential does not open: nothing can be sent anywhere.
        return _failed(error.message)
    except Exception:  # noqa: BLE001 - a plugin's code may raise anything
        _log.exception("revocation_broke", provider=connection.provider)
        return _failed("The integration's plugin failed.")


def _failed(detail: str) -> Sequence[RevocationResult]:
    return [RevocationResult(token="access_token", outcome="failed", detail=detail)]


async def _forget(
    services: Services,
    principal: Principal,
    connection: Connection,
    results: Sequence[RevocationResult],
) -> ConnectionView:
    async with services.database.transaction() as tx:
        receipt = {
            "disconnected_at": tx.now.isoformat(),
            "tokens": [
                {"token": line.token, "outcome": line.outcome, "detail": line.detail}
                for line in results
            ],
        }
        done = await tx.integrations.disconnect(
            tenant_id=principal.tenant_id,
            connection_id=connection.id,
            expected_revision=connection.revision,
            receipt=receipt,
            actor=principal.actor,
        )
        if not done:
            raise Conflict(
                "The account was connected again while it was being disconnected.",
                hint="Disconnect it again if it should go.",
            )
        ended = await tx.integrations.by_id(
            tenant_id=principal.tenant_id, connection_id=connection.id
        )
        await delivery.desire_deletion(tx, connection=ended, now=tx.now)
        return await view_of(tx, ended)


def receipt_of(view: ConnectionView) -> dict[str, Any] | None:
    """The receipt as it stands now: machines go on confirming after the request was answered."""
    if view.connection.state is not ConnectionState.DISCONNECTED or view.connection.receipt is None:
        return None
    return {**view.connection.receipt, "machines": [_wipe(row) for row in view.deliveries]}


def _wipe(row: Delivery) -> dict[str, Any]:
    wiped = row.acked_revision == row.desired_revision and row.acked_at is not None
    return {
        "instance_id": row.instance_id,
        "state": "wiped" if wiped else "pending",
        "acked_at": row.acked_at.isoformat() if wiped and row.acked_at else None,
    }
