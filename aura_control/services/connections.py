"""Connections: storing a new one, listing, validating."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aura_control.db.connection import Connection, Grant, Slot
from aura_control.db.models import ConnectionState, Delivery, Instance
from aura_control.db.transaction import Transaction
from aura_control.logs import get_logger
from aura_control.services import delivery
from aura_control.services.inputs import check_fields, check_variables
from aura_control.services.keys import EnvelopeRefused, Vault
from aura_control.services.lifetime import due_at
from aura_control.services.providers import auth_id, named_method
from aura_control.services.refresh import fresh_envelope
from aura_core.adapter import Connected, Validation
from aura_core.errors import (
    Conflict,
    InvalidInput,
    KeyMissing,
    NotFound,
    ReauthorizationRequired,
)
from aura_core.manifest import AuthMethod, Manifest, OAuth2Auth

if TYPE_CHECKING:
    from aura_control.composition import Services
    from aura_control.principal import Principal

__all__ = [
    "ConnectionView",
    "OtherAccount",
    "Owner",
    "connect_with_fields",
    "find_connection",
    "list_connections",
    "store_connected",
    "validate_connection",
]

_log = get_logger(__name__)


class OtherAccount(Conflict):
    """The user authorized another account than the one that is connected: ``account_id``."""

    def __init__(self, message: str, *, hint: str, account_id: str) -> None:
        super().__init__(message, hint=hint)
        self.account_id = account_id


@dataclass(frozen=True, kw_only=True)
class Owner:
    """Whose connection it is or becomes; ``agent_id`` is the agent that may use it at once."""

    tenant_id: str
    user_id: str
    agent_id: str | None = None

    @property
    def actor(self) -> str:
        return f"user:{self.user_id}"


@dataclass(frozen=True, kw_only=True)
class ConnectionView:
    """A connection and what the machines said of it."""

    connection: Connection
    deliveries: Sequence[Delivery]
    machines: Sequence[tuple[Delivery, Instance]] = ()
    """Of those deliveries, the ones to machines that there still are."""
    instances: Mapping[str, Instance] = field(default_factory=dict)
    """The machines of the deliveries (by id), those that are gone too."""


async def list_connections(services: Services, principal: Principal) -> list[ConnectionView]:
    """All connections of the user, disconnected ones with their receipts."""
    async with services.database.reading() as tx:
        found = await tx.integrations.list(tenant_id=principal.tenant_id, user_id=principal.user_id)
        return await _views_of(tx, found)


async def view_of(tx: Transaction, connection: Connection) -> ConnectionView:
    """The connection with its deliveries."""
    (view,) = await _views_of(tx, [connection])
    return view


async def _views_of(tx: Transaction, connections: Sequence[Connection]) -> list[ConnectionView]:
    """The connections, all of one user, with their deliveries."""
    if not connections:
        return []
    rows = await tx.deliveries.of_user(
        tenant_id=connections[0].tenant_id,
        user_id=connections[0].user_id,
        subjects=[connection.id for connection in connections],
    )
    views = []
    for connection in connections:
        mine = [pair for pair in rows if pair[0].subject == connection.id]
        views.append(
            ConnectionView(
                connection=connection,
                deliveries=[row for row, _ in mine],
                machines=[pair for pair in mine if pair[1].state in delivery.ALIVE],
                instances={machine.id: machine for _, machine in mine},
            )
        )
    return views


async def find_connection(tx: Transaction, principal: Principal, provider: str) -> Connection:
    """The user's connection. Raises NotFound."""
    found = await tx.integrations.get(
        tenant_id=principal.tenant_id, user_id=principal.user_id, provider=provider
    )
    if found is None:
        raise NotFound(f"You have no connection to {provider}.")
    return found


async def connect_with_fields(
    services: Services,
    principal: Principal,
    provider: str,
    *,
    fields: Mapping[str, str],
    auth: str | None,
    variables: Mapping[str, str],
    agent_id: str | None,
) -> ConnectionView:
    """Connects by what the user typed, after the provider accepted it.

    Raises NotFound, InvalidInput, Conflict, and the ProviderErrors.
    """
    integration = services.providers.open(provider)
    method = _typed_method(integration.manifest, auth)
    secrets = check_fields(method, fields)
    values = check_variables(integration.manifest, method, variables)
    owner = Owner(tenant_id=principal.tenant_id, user_id=principal.user_id, agent_id=agent_id)
    async with services.database.reading() as tx:
        await require_agent(tx, owner)
    ctx = services.providers.context(integration.manifest, method, values)
    connected = await integration.adapter.connect_with_fields(ctx, secrets)
    connection = await store_connected(
        services, owner, provider=provider, method=method, connected=connected, variables=values
    )
    async with services.database.reading() as tx:
        return await view_of(tx, connection)


def _typed_method(manifest: Manifest, auth: str | None) -> AuthMethod:
    if auth is not None:
        method = named_method(manifest, auth)
        if getattr(method, "fields", ()):
            return method
    else:
        for method in manifest.auth:
            if getattr(method, "fields", ()):
                return method
    raise InvalidInput(
        f"{manifest.name} is not connected by typing a key.",
        hint=f"Connect it in the browser: GET /api/integrations/{manifest.id}.",
    )


async def require_agent(tx: Transaction, owner: Owner) -> None:
    """Raises NotFound unless the agent, if one is named, is the user's own."""
    if owner.agent_id is None:
        return
    agent = await tx.agents.get(tenant_id=owner.tenant_id, agent_id=owner.agent_id)
    if agent.user_id != owner.user_id:
        raise NotFound("There is no such agent.")


async def store_connected(
    services: Services,
    owner: Owner,
    *,
    provider: str,
    method: AuthMethod,
    connected: Connected,
    variables: Mapping[str, str],
) -> Connection:
    """Stores what connecting gave, enables it on the agent, and lets machines and observers know.

    Raises OtherAccount when the account is another one than the connection's: the user would
    silently lose the old account, and its agents would act as somebody else.
    """
    async with services.database.transaction() as tx:
        existing = await tx.integrations.get(
            tenant_id=owner.tenant_id, user_id=owner.user_id, provider=provider
        )
        _refuse_other_account(existing, connected)
        slot = await tx.integrations.reserve(
            tenant_id=owner.tenant_id, user_id=owner.user_id, provider=provider
        )
        grant = await _grant(
            tx,
            services.vault,
            owner,
            slot=slot,
            method=method,
            existing=existing,
            connected=connected,
            variables=variables,
        )
        connection = await tx.integrations.upsert_connected(
            tenant_id=owner.tenant_id,
            user_id=owner.user_id,
            provider=provider,
            slot=slot,
            grant=grant,
            actor=owner.actor,
        )
        await _enable(tx, owner, provider)
        await delivery.desire_credential(tx, connection=connection, providers=services.providers)
    services.deliverer.wake()
    services.renewals.wake()
    services.registry.notify(
        "aura_connected",
        provider=provider,
        user_id=owner.user_id,
        connection_id=connection.id,
    )
    return connection


def _refuse_other_account(existing: Connection | None, connected: Connected) -> None:
    if existing is None or existing.state is ConnectionState.DISCONNECTED:
        return
    known, new = existing.account_id, connected.account_id
    if known is not None and new is not None and known != new:
        raise OtherAccount(
            f"You signed in at {existing.provider} with another account than the connected one.",
            hint="Sign in with the same account, or disconnect it first. Nothing was changed.",
            account_id=new,
        )


async def _grant(
    tx: Transaction,
    vault: Vault,
    owner: Owner,
    *,
    slot: Slot,
    method: AuthMethod,
    existing: Connection | None,
    connected: Connected,
    variables: Mapping[str, str],
) -> Grant:
    secrets = dict(connected.secrets)
    kept = isinstance(method, OAuth2Auth) and "refresh_token" not in secrets
    if kept and existing is not None and existing.auth_method == auth_id(method):
        # Many providers send a refresh token only at the first consent; the one that is stored
        # goes on being valid for this account.
        try:
            old = await vault.open_envelope(tx, existing, renewing=True)
        except EnvelopeRefused as error:
            if isinstance(error.cause, KeyMissing):
                # What cannot be opened only now is not to be overwritten.
                raise error.cause from None
            # Connecting again is how a credential that cannot be opened is mended.
            _log.warning("old_tokens_unreadable", connection_id=existing.id, reason=error.message)
        else:
            if old.refresh_token is not None:
                secrets["refresh_token"] = old.refresh_token
    tokens = await vault.seal_tokens(
        tx, tenant_id=owner.tenant_id, slot=slot, method=method, secrets=secrets
    )
    config: dict[str, Any] = {**variables, **connected.variables}
    return Grant(
        tokens=tokens,
        token_expiry=connected.token_expiry,
        renew_at=due_at(slot, connected.token_expiry, method),
        scopes=connected.scopes,
        auth_method=auth_id(method),
        account_id=connected.account_id,
        metadata=connected.metadata,
        config=config,
    )


async def _enable(tx: Transaction, owner: Owner, provider: str) -> None:
    if owner.agent_id is None:
        return
    try:
        await tx.agents.enable(
            tenant_id=owner.tenant_id,
            agent_id=owner.agent_id,
            provider=provider,
            actor=owner.actor,
        )
    except NotFound:
        return  # deleted while the user was at the provider: the connection is wanted all the same


async def validate_connection(
    services: Services, principal: Principal, provider: str
) -> Validation:
    """Asks the provider whether the credential works, and remembers the answer.

    Raises NotFound, Conflict for a disconnected one, RefreshFailed and the ProviderErrors.
    """
    async with services.database.reading() as tx:
        connection = await find_connection(tx, principal, provider)
    try:
        envelope = await fresh_envelope(services, principal.tenant_id, connection)
    except ReauthorizationRequired as error:
        return Validation(valid=False, reason=error.message)
    integration, ctx = services.providers.of(connection)
    validation = await integration.adapter.validate_credentials(ctx, envelope)
    if not validation.valid:
        async with services.database.transaction() as tx:
            newest = await find_connection(tx, principal, provider)
            await tx.integrations.mark(
                tenant_id=principal.tenant_id,
                connection_id=newest.id,
                state=ConnectionState.REAUTH_REQUIRED,
                reason=validation.reason or f"{provider} does not accept the credential.",
                actor=principal.actor,
                expected_revision=connection.revision,
            )
    return validation
