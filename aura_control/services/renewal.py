"""One renewal: from the durable intent to the committed tokens, and what each failure means."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

import httpx

from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState
from aura_control.logs import get_logger
from aura_control.ports import Clock
from aura_control.services.backoff import Backoffs
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.lifetime import repeatable
from aura_control.services.providers import Providers
from aura_control.services.refusals import refuse
from aura_control.services.renewed import RenewedTokens
from aura_core.adapter import Context, IntegrationAdapter, TokenRefresh
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import (
    AuraError,
    ConfigurationError,
    Effect,
    KeyMissing,
    ProviderError,
    RateLimited,
    ReauthorizationRequired,
    RefreshFailed,
)

__all__ = ["Renewal"]

_log = get_logger(__name__)

_RETRIES = (0.0, 2.0, 3.0)
"""Seconds between the tries after a lost answer: at 0, 2 and 5 seconds from when it was missed."""

_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """Why there are no new tokens, and what all tries together did at the provider."""

    error: AuraError
    effect: Effect


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
        backoffs: Backoffs,
    ) -> None:
        self._database = database
        self._vault = vault
        self._providers = providers
        self._clock = clock
        self._pause = pause
        self._backoffs = backoffs
        self._renewed = RenewedTokens(
            database=database, vault=vault, providers=providers, pause=pause
        )

    async def run(self, connection: Connection) -> Connection:
        """The connection with new tokens, or as somebody else renewed it meanwhile. Raises
        ReauthorizationRequired, RefreshFailed, and what says that it cannot be renewed here: its
        plugin is gone, its envelope does not open."""
        name = connection.provider
        if name in self._backoffs.paused():
            raise RefreshFailed(
                f"{name} asked Aura for a pause, or refuses Aura's own client.",
                hint="Aura tries again by itself; the log tells the operator more.",
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
        told = await self._call(
            connection, ctx, integration.adapter, begun, "unknown" if interrupted else "none"
        )
        if isinstance(told, _Failure):
            return await self._failed(connection, ctx, told)
        self._backoffs.succeeded(connection.id)
        if told is None:
            return await self._not_renewable(connection)
        return await self._renewed.store(connection, ctx.method, begun, told)

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

    async def put_off(self, connection: Connection, error: BaseException) -> None:
        """Something else than the provider failed: the sweep leaves it alone for a while."""
        until = self._backoffs.failed(connection.id)
        async with self._database.transaction() as tx:
            await tx.integrations.postpone(
                tenant_id=connection.tenant_id,
                connection_id=connection.id,
                expected_revision=connection.revision,
                until=until,
            )
        _log.warning("renewal_put_off", connection_id=connection.id, error=type(error).__name__)

    async def _call(
        self,
        connection: Connection,
        ctx: Context,
        adapter: IntegrationAdapter,
        envelope: CredentialEnvelope,
        effect: Effect,
    ) -> TokenRefresh | _Failure | None:
        """Asks the provider, again if an answer is lost and the provider bears it.

        ``effect``: what an earlier process's call did. Once an answer is lost, the token may be
        spent, and then even ``invalid_grant`` is worth another try: a grace period, or a provider
        whose servers do not all know yet, may still give the tokens out.
        """
        again = list(_RETRIES if repeatable(ctx.method) else ())
        if effect != "none":
            again = again[1:]  # the first of them is this call
        while True:
            try:
                return await adapter.refresh_token(ctx, envelope)
            except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
                failure = _understood(error, connection, effect)
            effect = failure.effect
            final = effect == "none" or isinstance(failure.error, ConfigurationError | RateLimited)
            if final or not again or await self._newer(connection) is not None:
                return failure
            await self._pause(again.pop(0))

    async def _failed(self, connection: Connection, ctx: Context, failure: _Failure) -> Connection:
        name, error = connection.provider, failure.error
        if isinstance(error, ReauthorizationRequired):
            newer = await self._newer(connection)
            return newer or await self._ask_user(connection, error.message)
        if failure.effect == "unknown" and not repeatable(ctx.method):
            return await self._ask_user(
                connection, f"The answer of {name} was lost, and it takes a refresh token once."
            )
        said, asked = error.message, getattr(error, "retry_after", 0.0)
        if isinstance(error, ConfigurationError):
            # Aura's own client is refused: a mistake of the operator, whose settings are no
            # business of the user's, and no reason to ask anybody to connect again.
            _log.error("provider_paused", provider=name, reason=error.message)
            self._backoffs.pause(name)
            said = f"{name} refuses Aura's own client: the operator has to mend its settings."
        elif isinstance(error, RateLimited):
            self._backoffs.pause(name, asked=asked)
        # The intent stays open where the same token may be presented again and was perhaps spent:
        # that is how the next try, or the next process, knows.
        await self._mark(
            connection,
            ConnectionState.EXPIRING if failure.effect == "none" else ConnectionState.UNCERTAIN,
            said,
            until=self._backoffs.failed(connection.id, asked=asked),
            close=failure.effect == "none" or not repeatable(ctx.method),
        )
        raise RefreshFailed(
            said if isinstance(error, ConfigurationError) else f"{name} did not renew the access.",
            hint="Aura tries again by itself.",
        ) from error

    async def _not_renewable(self, connection: Connection) -> Connection:
        """Nothing renews this access: it is used to its end, and then the user has to connect."""
        expiry = connection.token_expiry
        if expiry is None or expiry <= self._clock():
            return await self._ask_user(
                connection, f"The access to {connection.provider} ended and cannot be renewed."
            )
        reason = f"The access ends at {expiry:%Y-%m-%d %H:%M} UTC and cannot be renewed."
        await self._mark(connection, ConnectionState.EXPIRING, reason, until=expiry, close=True)
        return await self._current(connection)

    async def _mark(
        self,
        connection: Connection,
        state: ConnectionState,
        reason: str,
        *,
        until: datetime,
        close: bool,
    ) -> None:
        async with self._database.transaction() as tx:
            which = {"tenant_id": connection.tenant_id, "connection_id": connection.id}
            await tx.integrations.mark(
                **which, state=state, reason=reason, expected_revision=connection.revision
            )
            if close:
                await tx.integrations.end_refresh(**which, generation=connection.revision)
            await tx.integrations.postpone(
                **which, expected_revision=connection.revision, until=until
            )

    async def _current(self, connection: Connection) -> Connection:
        async with self._database.reading() as tx:
            return await tx.integrations.by_id(
                tenant_id=connection.tenant_id, connection_id=connection.id
            )

    async def _newer(self, connection: Connection) -> Connection | None:
        found = await self._current(connection)
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


def _understood(error: Exception, connection: Connection, before: Effect) -> _Failure:
    """What a try means that ended with ``error``, after tries that did ``before``."""
    if not isinstance(error, AuraError | httpx.HTTPError):
        _log.exception("refresh_plugin_broke", connection_id=connection.id, exc_info=error)
    effect = _effect(error)
    worst: Effect = "unknown" if "unknown" in (before, effect) else effect
    if worst == "none":
        worst = before
    if isinstance(error, AuraError):
        return _Failure(error=error, effect=worst)
    said = ProviderError(f"{connection.provider} could not be asked: {type(error).__name__}.")
    said.__cause__ = error
    return _Failure(error=said, effect=worst)


def _effect(error: BaseException) -> Effect:
    """What the call did, as the error says it, or as the transport's error behind it does: a
    plugin may have put its own words around that one."""
    if isinstance(error, ProviderError) and error.effect != "none":
        return error.effect
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.TransportError):
            return "none" if isinstance(cause, _NEVER_SENT) else "unknown"
        cause = cause.__cause__ or cause.__context__
    # A plugin that broke may have done so before or after its call.
    return "none" if isinstance(error, AuraError) else "unclear"
