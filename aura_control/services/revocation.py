"""Revoking at the provider what a connection leaves behind, however long the provider is away.

The tokens of a connection that ended are moved, in the transaction that ends it, into a row of
``pending_revocations``. From there they go nowhere but to the provider's revocation endpoint: at
once if it answers, else again and again for a day. A process that dies leaves the row, and any
process goes on with it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from pydantic import SecretStr

from aura_control.db.connection import Connection
from aura_control.db.engine import Database
from aura_control.db.models import ConnectionState, PendingRevocation
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.ports import Clock, Locks
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.providers import Providers, auth_id
from aura_control.services.revocation_lines import for_all, line, merged
from aura_core.adapter import Context, RevocationResult
from aura_core.api import redact
from aura_core.credentials import CredentialEnvelope
from aura_core.errors import AuraError, EnvelopeError, KeyMissing, RefreshFailed

__all__ = ["GIVES_UP_AFTER", "REVOCATION", "Revoker", "keep_late_tokens", "keep_tokens"]

_log = get_logger(__name__)

REVOCATION = "revocation"
"""The field that tokens waiting for their revocation are sealed as."""

GIVES_UP_AFTER = timedelta(days=1)
"""How long a provider that does not answer is asked again. Most access tokens end by themselves
within it, and whoever disconnects does not expect their tokens to be kept for good."""

_FIRST_WAIT = 15.0
_LONGEST_WAIT = 3600.0
_LOOKS_EVERY = 30.0
_SHORTEST_PAUSE = 0.5
_AT_ONCE = 8


async def keep_tokens(
    tx: Transaction,
    vault: Vault,
    connection: Connection,
    *,
    revision: int,
    secrets: Mapping[str, SecretStr],
    actor: str,
) -> None:
    """Seals the secrets of an ended connection for their revocation, and for nothing else."""
    values = {name: secret.get_secret_value() for name, secret in secrets.items()}
    tokens: list[str] = [name for name in ("refresh_token", "access_token") if name in values]
    sealed = await vault.seal_field(
        tx, connection.tenant_id, connection.id, REVOCATION, revision, json.dumps(values)
    )
    await tx.revocations.add(
        tenant_id=connection.tenant_id,
        connection_id=connection.id,
        revision=revision,
        auth_method=connection.auth_method,
        account_id=connection.account_id,
        config=connection.config,
        sealed=sealed,
        lines={token: line("pending", "", at=None) for token in tokens or ["api_key"]},
        gives_up_at=tx.now + GIVES_UP_AFTER,
        actor=actor,
    )


async def keep_late_tokens(
    tx: Transaction,
    vault: Vault,
    connection: Connection,
    *,
    newest: Connection,
    secrets: Mapping[str, SecretStr],
) -> None:
    """Tokens that a provider issued for a connection that ended meanwhile: nobody stored them and
    nobody wants them, so they are revoked like the ones before."""
    revision = max(newest.revision, connection.revision) + 1
    taken = await tx.revocations.of(tenant_id=connection.tenant_id, connection_id=connection.id)
    revision = max([revision, *(row.revision + 1 for row in taken)])
    await keep_tokens(tx, vault, connection, revision=revision, secrets=secrets, actor="system")


class Revoker:
    """Works through ``pending_revocations``. One per process: ``run`` until ``close``, then
    ``drain``."""

    def __init__(
        self,
        *,
        database: Database,
        vault: Vault,
        providers: Providers,
        locks: Locks,
        clock: Clock,
    ) -> None:
        self._database = database
        self._vault = vault
        self._providers = providers
        self._locks = locks
        self._clock = clock
        self._flights: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._woken = asyncio.Event()
        self._closing = False

    async def attempt(self, *, tenant_id: str, connection_id: str) -> None:
        """Makes the attempts that are due for a connection, or joins those under way."""
        flight = self._flights.get(connection_id)
        if flight is None:
            if self._closing:
                return  # the row stays: the next process goes on
            # A task of the revoker's own: whoever disconnected may hang up, and a provider that
            # was asked should be heard.
            flight = asyncio.create_task(self._contained(tenant_id, connection_id))
            self._flights[connection_id] = flight
            flight.add_done_callback(lambda _: self._flights.pop(connection_id, None))
        await asyncio.shield(flight)

    def wake(self) -> None:
        """There is something new to revoke; returns at once."""
        self._woken.set()

    def close(self) -> None:
        """Begins nothing new; ``run`` returns after what is under way."""
        self._closing = True
        self._woken.set()

    async def drain(self) -> None:
        """Waits for the attempts under way."""
        while self._flights:
            await asyncio.wait(list(self._flights.values()))

    async def run(self) -> None:
        """Makes what is due, at the start and whenever something is; ends by ``close``."""
        while not self._closing:
            self._woken.clear()
            try:
                pause = await self.sweep()
            except Exception:  # noqa: BLE001 - the next sweep may succeed
                _log.exception("revocations_failed")
                pause = _LOOKS_EVERY
            try:
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def sweep(self) -> float:
        """Makes all attempts that are due; answers the seconds until the next one may be."""
        async with self._database.reading() as tx:
            due = await tx.revocations.due()
        owners = {row.connection_id: row.tenant_id for row in due}
        async with asyncio.TaskGroup() as group:
            for connection_id, tenant_id in owners.items():
                group.create_task(self._in_turn(tenant_id, connection_id))
        async with self._database.reading() as tx:
            soonest = await tx.revocations.next_attempt_at()
        if soonest is None:
            return _LOOKS_EVERY
        wait = (soonest - self._clock()).total_seconds()
        return min(max(wait, _SHORTEST_PAUSE), _LOOKS_EVERY)

    async def _in_turn(self, tenant_id: str, connection_id: str) -> None:
        async with self._slots:
            await self.attempt(tenant_id=tenant_id, connection_id=connection_id)

    async def _contained(self, tenant_id: str, connection_id: str) -> None:
        try:
            # Not the refresher's lock: a renewal that hangs must not keep a token alive. What it
            # brings back, it finds unwanted itself.
            async with self._locks.hold(f"revocation-{connection_id}"):
                async with self._database.reading() as tx:
                    rows = await tx.revocations.of(tenant_id=tenant_id, connection_id=connection_id)
                for row in rows:
                    if row.next_attempt_at <= self._clock():
                        await self._revoke(row)
        except RefreshFailed:
            _log.info("revocation_waits", connection_id=connection_id)
        except Exception:  # noqa: BLE001 - the row stays, and is tried again
            _log.exception("revocation_broke", connection_id=connection_id)

    async def _revoke(self, row: PendingRevocation) -> None:
        wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(row.attempts, 20))
        jittered = random.uniform(wait / 2, wait)  # noqa: S311 - jitter
        retry_at = self._clock() + timedelta(seconds=jittered)
        async with self._database.transaction() as tx:
            if not await tx.revocations.begin(row, next_attempt_at=retry_at):
                return
            connection = await tx.integrations.by_id(
                tenant_id=row.tenant_id, connection_id=row.connection_id
            )
        results = await self._ask(row, connection)
        now = self._clock()
        again = any(line.outcome == "failed" and line.retry for line in results)
        given_up = again and now >= row.gives_up_at
        lines = merged(row, results, now=now, retry_at=None if given_up else retry_at)
        async with self._database.transaction() as tx:
            if again and not given_up:
                await tx.revocations.postpone(row, lines=lines)
            else:
                await tx.revocations.finish(row, lines=lines, given_up=given_up)

    async def _ask(
        self, row: PendingRevocation, connection: Connection
    ) -> Sequence[RevocationResult]:
        """What the provider answers for each token. Never raises for what plugins do."""
        hidden: list[SecretStr] = []
        try:
            secrets = await self._secrets(row, connection)
            hidden += secrets.values()
            integration, ctx = self._providers.made_by(
                connection.provider, row.auth_method, row.config
            )
            if not secrets or _would_end(connection, row, ctx):
                return for_all(row, "not_offered", _CONNECTED_AGAIN)
            results = await integration.adapter.on_disconnect(
                ctx, _envelope(row, connection, ctx, secrets)
            )
        except KeyMissing as error:
            return for_all(row, "failed", error.message, retry=True)  # the operator may bring it
        except EnvelopeRefused as error:  # what is connected now, which may be the same token
            missing = isinstance(error.cause, KeyMissing)
            return for_all(row, "failed", error.message, retry=missing)
        except EnvelopeError as error:
            return for_all(row, "failed", error.message)  # there is nothing that could be sent
        except AuraError as error:
            words = redact(error.message, hidden)
            return for_all(row, "failed", words, retry=True)  # the plugin may come back
        except Exception as error:  # noqa: BLE001 - a plugin's code may raise anything
            _log.exception("revocation_broke", provider=connection.provider)
            words = f"The integration's plugin failed ({type(error).__name__})."
            return for_all(row, "failed", words, retry=True)
        return [replace(result, detail=redact(result.detail, hidden)) for result in results]

    async def _secrets(
        self, row: PendingRevocation, connection: Connection
    ) -> dict[str, SecretStr]:
        """What is to be revoked: not what a provider issued again when the user connected again,
        as some do with a refresh token that is still good."""
        async with self._database.reading() as tx:
            text = await self._vault.open_field(
                tx, row.tenant_id, row.connection_id, REVOCATION, row.revision, row.sealed
            )
            in_use: set[str] = set()
            if connection.state is not ConnectionState.DISCONNECTED:
                envelope = await self._vault.open_envelope(tx, connection, renewing=True)
                in_use = {secret.get_secret_value() for secret in envelope.secrets.values()}
        stored: dict[str, str] = json.loads(text)
        return {name: SecretStr(value) for name, value in stored.items() if value not in in_use}


def _envelope(
    row: PendingRevocation,
    connection: Connection,
    ctx: Context,
    secrets: Mapping[str, SecretStr],
) -> CredentialEnvelope:
    return CredentialEnvelope(
        integration_id=connection.id,
        user_id=connection.user_id,
        provider=connection.provider,
        auth_id=auth_id(ctx.method),
        secrets=dict(secrets),
        metadata=connection.metadata,
        variables={name: str(value) for name, value in row.config.items()},
    )


_CONNECTED_AGAIN = (
    "The account is connected again, and the provider would end the new access with the old."
)


def _would_end(connection: Connection, row: PendingRevocation, ctx: Context) -> bool:
    """Whether revoking these tokens would end what the user has connected since.

    Where one revocation ends a whole grant (the manifest's ``cascades``), all tokens of an account
    and a client are one grant, however often the user consented.
    """
    if connection.state is ConnectionState.DISCONNECTED:
        return False
    revocation = ctx.method.revocation
    other = None not in (connection.account_id, row.account_id) and (
        connection.account_id != row.account_id
    )
    return revocation is not None and revocation.cascades and not other
