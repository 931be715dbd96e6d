"""Storing new tokens: they exist nowhere else, so everything gives way to their commit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from pydantic import SecretStr

from aura_control.db.connection import Connection, Slot
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.logs import get_logger
from aura_control.services import delivery
from aura_control.services.keys import Vault
from aura_control.services.lifetime import due_at
from aura_control.services.providers import Providers
from aura_control.services.revocation import keep_late_tokens
from aura_core.adapter import TokenRefresh
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import AuraError
from aura_core.manifest import AuthMethod, OAuth2Auth

__all__ = ["RenewedTokens"]

_log = get_logger(__name__)

_RETRIES = (0.2, 1.0, 3.0, 10.0, 30.0)
"""Seconds between tries to commit: a database that fails over or is restarted is back by then."""


class RenewedTokens:
    """Commits what a refresh brought."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        providers: Providers,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._database = database
        self._vault = vault
        self._providers = providers
        self._pause = pause

    async def store(
        self,
        connection: Connection,
        method: AuthMethod,
        envelope: CredentialEnvelope,
        renewed: TokenRefresh,
    ) -> Connection:
        """Commits the new tokens, with the wish to deliver them; answers the connection as it is
        then, which is another one's work if somebody stored a newer revision meanwhile.

        A failure of anything but their own row must not lose the tokens: later tries store them
        alone, and machines learn of them by their heartbeats. While the tries last the intent is
        open, so a process that dies in them leaves word.
        """
        secrets = _kept(method, envelope, renewed)
        for number, delay in enumerate((*_RETRIES, None)):
            try:
                return await self._commit(connection, method, secrets, renewed, deliver=number == 0)
            except Exception as error:  # whatever it was, the tokens come first
                _log.exception("refresh_commit_failed", connection_id=connection.id)
                if delay is None or (number and isinstance(error, AuraError)):
                    raise  # later tries would end the same way
                await self._pause(delay)
        raise AssertionError("the last try returns or raises")

    async def _commit(
        self,
        connection: Connection,
        method: AuthMethod,
        secrets: dict[str, SecretStr],
        renewed: TokenRefresh,
        *,
        deliver: bool,
    ) -> Connection:
        async with self._database.transaction() as tx:
            # Before the seals are counted: whoever seals a connection again has its row by then.
            await tx.integrations.lock(tenant_id=connection.tenant_id, connection_id=connection.id)
            slot = Slot(
                connection_id=connection.id,
                revision=tx.integrations.next_revision(connection.revision),
                replaces=connection.revision,
            )
            stored = await tx.integrations.apply_refresh(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                expected_revision=connection.revision,
                revision=slot.revision,
                tokens=await self._vault.seal_tokens(
                    tx,
                    tenant_id=connection.tenant_id,
                    slot=slot,
                    method=method,
                    secrets=secrets,
                ),
                token_expiry=renewed.token_expiry,
                renew_at=due_at(slot, renewed.token_expiry, method),
                scopes=renewed.scopes,
            )
            if stored is not None:
                if deliver:
                    await delivery.desire_credential(
                        tx, connection=stored, providers=self._providers
                    )
                return stored
            newest = await tx.integrations.by_id(
                tenant_id=connection.tenant_id, connection_id=connection.id
            )
            if _ended(connection, newest):
                await keep_late_tokens(
                    tx, self._vault, connection, newest=newest, secrets=_issued(renewed)
                )
            return newest


def _ended(connection: Connection, newest: Connection) -> bool:
    """Whether the user disconnected, or connected again, while the connection was renewed."""
    disconnected = newest.state is ConnectionState.DISCONNECTED
    return disconnected or newest.connected_at != connection.connected_at


def _issued(renewed: TokenRefresh) -> dict[str, SecretStr]:
    found = {"access_token": renewed.access_token}
    if renewed.refresh_token is not None:
        found["refresh_token"] = renewed.refresh_token
    return found


def _kept(
    method: AuthMethod, envelope: CredentialEnvelope, renewed: TokenRefresh
) -> dict[str, SecretStr]:
    secrets = dict(envelope.secrets) | {"access_token": renewed.access_token}
    if renewed.refresh_token is not None:
        secrets["refresh_token"] = renewed.refresh_token
    elif isinstance(method, OAuth2Auth) and not method.refresh.keeps_old_if_absent:
        secrets.pop("refresh_token", None)
    return secrets
