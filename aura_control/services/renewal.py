"""One renewal: from the durable intent to the committed tokens, and what each failure means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import httpx

from aura_control.db.connection import Connection, Slot
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.logs import get_logger
from aura_control.ports import Clock
from aura_control.services import delivery
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.lifetime import repeatable
from aura_control.services.providers import Providers
from aura_control.services.refusals import refuse
from aura_core.adapter import Context, TokenRefresh
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import (
    AuraError,
    ConfigurationError,
    KeyMissing,
    ProviderError,
    ReauthorizationRequired,
    RefreshFailed,
)
from aura_core.manifest import OAuth2Auth

__all__ = ["Renewal"]

_log = get_logger(__name__)

_RETRIES = (0.0, 2.0, 5.0)
"""Seconds before each try with the same refresh token after a lost answer."""

_OPERATOR_PAUSE = timedelta(seconds=60)

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class Renewal:
    """Renews one connection at a time under a lock that the caller holds."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        providers: Providers,
        clock: Clock,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._database = database
        self._vault = vault
        self._providers = providers
        self._clock = clock
        self._pause = pause
        self._paused: dict[str, datetime] = {}

    async def run(self, connection: Connection) -> Connection:
        """The connection with new tokens, or as somebody else renewed it meanwhile. Raises
        ReauthorizationRequired and RefreshFailed."""
        name = connection.provider
        if self._paused.get(name, self._clock()) > self._clock():
            raise RefreshFailed(
                f"{name} refuses Aura's own client.", hint="The operator has to mend its settings."
            )
        integration, ctx = self._providers.of(connection)
        interrupted = connection.refresh_generation == connection.revision
        if interrupted and not repeatable(ctx.method):
            return await self._ask_user(
                connection,
                f"The answer of {name} to an earlier renewal was lost, and it takes a token once.",
            )
        begun = await self._begin(connection)
        if isinstance(begun, Connection):
            return begun
        call = integration.adapter.refresh_token
        renewed = await self._call(connection, ctx, call, begun, lost=interrupted)
        if isinstance(renewed, Connection):
            return renewed
        return await self._store(connection, ctx, begun, renewed)

    async def _begin(self, connection: Connection) -> CredentialEnvelope | Connection:
        """The secrets to spend, once the intent to do so is open; or the newer connection.

        What does not open leaves no intent behind: it is in the same transaction.
        """
        try:
            async with self._database.transaction() as tx:
                begun = await tx.integrations.begin_refresh(
                    tenant_id=connection.tenant_id,
                    connection_id=connection.id,
                    expected_revision=connection.revision,
                )
                if begun:
                    return await self._vault.open_envelope(tx, connection, renewing=True)
                return await tx.integrations.by_id(
                    tenant_id=connection.tenant_id, connection_id=connection.id
                )
        except EnvelopeRefused as refused:
            error = await refuse(self._database, self._vault, refused)
        if isinstance(error, KeyMissing):
            raise RefreshFailed(
                f"Aura cannot open the credential for {connection.provider} now.",
                hint="The operator has to put a master key back; nothing is lost.",
            ) from error
        raise error

    async def _call(
        self,
        connection: Connection,
        ctx: Context,
        call: Callable[[Context, CredentialEnvelope], Awaitable[TokenRefresh | None]],
        envelope: CredentialEnvelope,
        *,
        lost: bool,
    ) -> TokenRefresh | Connection:
        """Asks the provider, again if an answer is lost and the provider bears it."""
        last: AuraError | None = None
        for delay in _RETRIES if repeatable(ctx.method) else _RETRIES[:1]:
            await self._pause(delay)
            try:
                renewed = await call(ctx, envelope)
            except ReauthorizationRequired as error:
                newer = await self._newer(connection)
                if newer is not None:
                    return newer
                last = error
                if not lost:
                    break
                continue  # our own lost request may have spent it: the grace period helps
            except ConfigurationError as error:
                await self._close(connection, lost=lost)
                self._paused[connection.provider] = self._clock() + _OPERATOR_PAUSE
                _log.error("provider_paused", provider=connection.provider, reason=str(error))
                raise RefreshFailed(
                    f"{connection.provider} refuses Aura's own client.",
                    hint="The operator has to mend its settings.",
                ) from error
            except ProviderError as error:
                last = error
                if not answer_lost(error):
                    if lost:
                        continue
                    break
                lost = True
                continue
            return await self._not_renewable(connection) if renewed is None else renewed
        return await self._give_up(connection, ctx, last, lost=lost)

    async def _give_up(
        self, connection: Connection, ctx: Context, last: AuraError | None, *, lost: bool
    ) -> Connection:
        if isinstance(last, ReauthorizationRequired):
            return await self._ask_user(connection, last.message)
        if lost and not repeatable(ctx.method):
            return await self._ask_user(
                connection,
                f"The answer of {connection.provider} was lost, and it takes a refresh token once.",
            )
        state = ConnectionState.UNCERTAIN if lost else ConnectionState.EXPIRING
        reason = last.message if last is not None else f"{connection.provider} did not answer."
        async with self._database.transaction() as tx:
            await tx.integrations.mark(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                state=state,
                reason=reason,
                expected_revision=connection.revision,
            )
        await self._close(connection, lost=lost)
        raise RefreshFailed(
            f"{connection.provider} did not renew the access.", hint="Aura tries again by itself."
        ) from last

    async def _not_renewable(self, connection: Connection) -> Connection:
        """Nothing renews this access: it is used to its end, and then the user has to connect."""
        await self._close(connection, lost=False)
        expiry = connection.token_expiry
        if expiry is None or expiry <= self._clock():
            return await self._ask_user(
                connection, f"The access to {connection.provider} ended and cannot be renewed."
            )
        reason = f"The access ends at {expiry:%Y-%m-%d %H:%M} UTC and cannot be renewed."
        async with self._database.transaction() as tx:
            await tx.integrations.mark(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                state=ConnectionState.EXPIRING,
                reason=reason,
                expected_revision=connection.revision,
            )
            return await tx.integrations.by_id(
                tenant_id=connection.tenant_id, connection_id=connection.id
            )

    async def _close(self, connection: Connection, *, lost: bool) -> None:
        """Closes the intent, unless an answer was lost: then the token may be spent, and an open
        intent is how the next try, or the next process, knows."""
        if lost:
            return
        async with self._database.transaction() as tx:
            await tx.integrations.end_refresh(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                generation=connection.revision,
            )

    async def _newer(self, connection: Connection) -> Connection | None:
        async with self._database.reading() as tx:
            found = await tx.integrations.by_id(
                tenant_id=connection.tenant_id, connection_id=connection.id
            )
        return found if found.revision != connection.revision else None

    async def _ask_user(self, connection: Connection, reason: str) -> Connection:
        """Says once that only the user can help; answers the newer connection if there is one."""
        async with self._database.transaction() as tx:
            await tx.integrations.mark(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                state=ConnectionState.REAUTH_REQUIRED,
                reason=reason,
                expected_revision=connection.revision,
            )
        newer = await self._newer(connection)
        if newer is not None:
            return newer
        raise ReauthorizationRequired(reason, hint="Connect the account again.")

    async def _store(
        self,
        connection: Connection,
        ctx: Context,
        envelope: CredentialEnvelope,
        renewed: TokenRefresh,
    ) -> Connection:
        """Commits the new tokens, with the wish to deliver them.

        They exist nowhere else now, so a failure of anything but their own row must not lose them:
        a second try stores them alone, and machines learn of them by their heartbeats.
        """
        try:
            return await self._commit(connection, ctx, envelope, renewed, deliver=True)
        except Exception:  # noqa: BLE001 - whatever it was, the tokens come first
            _log.exception("refresh_commit_failed", connection_id=connection.id)
            return await self._commit(connection, ctx, envelope, renewed, deliver=False)

    async def _commit(
        self,
        connection: Connection,
        ctx: Context,
        envelope: CredentialEnvelope,
        renewed: TokenRefresh,
        *,
        deliver: bool,
    ) -> Connection:
        secrets = dict(envelope.secrets) | {"access_token": renewed.access_token}
        if renewed.refresh_token is not None:
            secrets["refresh_token"] = renewed.refresh_token
        elif isinstance(ctx.method, OAuth2Auth) and not ctx.method.refresh.keeps_old_if_absent:
            secrets.pop("refresh_token", None)
        async with self._database.transaction() as tx:
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
                    method=ctx.method,
                    secrets=secrets,
                ),
                token_expiry=renewed.token_expiry,
                scopes=renewed.scopes,
            )
            newest = await tx.integrations.by_id(
                tenant_id=connection.tenant_id, connection_id=connection.id
            )
            if stored and deliver:
                await delivery.desire_credential(tx, connection=newest, now=tx.now)
        return newest


def answer_lost(error: BaseException) -> bool:
    """Whether the provider may have acted on a request whose answer never came: the connection
    was made, and then nothing. An error that the provider answered is no lost answer."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.TransportError):
            return not isinstance(cause, _NEVER_SENT)
        cause = cause.__cause__ or cause.__context__
    return False
