"""Ending a connection: out of use at once, then revoked at the provider and wiped on machines.

One transaction ends every use: the state, a new revision, the tokens gone from the connection, and
the wish that each machine forgets them. It needs no lock and waits for nobody: a renewal under way
finds another revision when it comes back, stores nothing, and leaves what it got to be revoked
(``services.revocation``). What happens after that transaction may take its time, or a restart.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aura_control.db.connection import Connection
from aura_control.db.models import ConnectionState
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.services import delivery
from aura_control.services.connections import ConnectionView, find_connection, view_of
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.refusals import record
from aura_control.services.revocation import keep_tokens
from aura_core.errors import AuraError, Conflict, KeyMissing

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = ["disconnect", "end_use", "tell"]

_log = get_logger(__name__)

_ANSWERS_WITHIN = 15.0
"""Seconds that the provider gets before the receipt is answered as it stands."""

_TRIES = 8


async def disconnect(services: Services, principal: Principal, provider: str) -> ConnectionView:
    """Ends the user's connection; answers it with the receipt as it stands.

    Ending it again answers the same receipt, and asks nobody. Raises NotFound, and Conflict where
    it changes so fast that it could not be ended.
    """
    for _ in range(_TRIES):
        async with services.database.transaction() as tx:
            connection = await find_connection(tx, principal, provider)
            ended = connection.state is ConnectionState.DISCONNECTED
            if ended or await end_use(tx, services.vault, connection, actor=principal.actor):
                break
    else:
        raise Conflict(f"{provider} changes all the time.", hint="Try again in a moment.")
    if not ended:
        tell(services, connection)
    try:
        async with asyncio.timeout(_ANSWERS_WITHIN):
            await services.revoker.attempt(
                tenant_id=principal.tenant_id, connection_id=connection.id
            )
    except TimeoutError:
        _log.info("revocation_slow", connection_id=connection.id)
    async with services.database.reading() as tx:
        newest = await find_connection(tx, principal, provider)
        if newest.state is not ConnectionState.DISCONNECTED:
            raise Conflict(
                "The account was connected again while it was being disconnected.",
                hint="Disconnect it again if it should go.",
            )
        return await view_of(tx, newest)


async def end_use(
    tx: Transaction,
    vault: Vault,
    connection: Connection,
    *,
    actor: str,
    waits_for_key: bool = False,
) -> bool:
    """Takes the connection out of use, with its tokens kept to be revoked; False: it has another
    revision by now.

    A credential that does not open ends unrevoked. Where only its key is missing here, that ends
    a user's use at once, as they asked, and the receipt says so; ``waits_for_key`` raises
    ``KeyMissing`` instead.
    """
    try:
        envelope = await vault.open_envelope(tx, connection, renewing=True)
    except AuraError as error:
        # It does not open, so there is nothing to send anywhere. It ends all the same.
        if isinstance(error, EnvelopeRefused):
            if waits_for_key and isinstance(error.cause, KeyMissing):
                raise error.cause from error
            await record(tx, vault, error)
        secrets, words = {}, f"{error.message.rstrip('.')}. {_BY_HAND}"
    else:
        secrets, words = dict(envelope.secrets), f"Aura held no token of it any more. {_BY_HAND}"
    at = tx.now.isoformat()
    nothing = {
        "token": "access_token",
        "revision": 0,
        "outcome": "failed",
        "detail": words,
        "at": at,
        "retry_at": None,
    }
    receipt = {"disconnected_at": at, "tokens": [] if secrets else [nothing]}
    done = await tx.integrations.disconnect(
        tenant_id=connection.tenant_id,
        connection_id=connection.id,
        expected_revision=connection.revision,
        receipt=receipt,
        actor=actor,
    )
    if not done:
        return False
    ended = await tx.integrations.by_id(tenant_id=connection.tenant_id, connection_id=connection.id)
    if secrets:
        await keep_tokens(
            tx, vault, connection, revision=ended.revision, secrets=secrets, actor=actor
        )
    await delivery.desire_deletion(tx, connection=ended)
    return True


_BY_HAND = "What is left can be taken back in the account's settings at the provider."


def tell(services: Services, connection: Connection) -> None:
    """After the commit: those who act on it."""
    services.deliverer.wake()
    services.revoker.wake()
    services.registry.notify(
        "aura_disconnected",
        provider=connection.provider,
        user_id=connection.user_id,
        connection_id=connection.id,
    )
