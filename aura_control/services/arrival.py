"""The callback: what the provider's redirect has to prove before anything is asked of it."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from aura_control.db.connection import Connection
from aura_control.db.models import OAuthTransaction
from aura_control.logs import get_logger
from aura_control.services.authorization import digest, open_verifier
from aura_control.services.connections import OtherAccount, Owner, store_connected
from aura_control.services.providers import auth_id, named_method
from aura_core.adapter import Connected, Context, IntegrationAdapter
from aura_core.credentials import CredentialEnvelope, fill
from aura_core.errors import InvalidInput, ProviderRejected, ReauthorizationRequired
from aura_core.manifest import OAuth2Auth
from aura_core.oauth import exchange_code, uses_pkce

if TYPE_CHECKING:
    from aura_control.composition import Services

__all__ = ["arrive"]

_log = get_logger(__name__)

_BEGIN_AGAIN = "Begin again in Aura."
_LONGEST = 4096
_CODE = re.compile(r"[a-z0-9_.-]{1,64}", re.ASCII | re.IGNORECASE)

_REFUSALS = {
    "access_denied": "You did not allow the access, so nothing was connected.",
    "consent_required": "The provider wants your consent, and did not get it.",
    "login_required": "The provider wants you to sign in first.",
    "temporarily_unavailable": "The provider is overloaded at the moment.",
    "server_error": "The provider had an error of its own.",
    "invalid_scope": "The provider does not grant the permissions that Aura asks for.",
    "unauthorized_client": "The provider does not accept Aura's registration.",
    "admin_policy_enforced": "Your organisation's administrator does not allow this access.",
}
"""RFC 6749 §4.1.2.1, OpenID Connect Core §3.1.2.6, and codes that providers are known to send."""


async def arrive(
    services: Services, provider: str, params: Mapping[str, str], *, browser: str | None
) -> Connection:
    """Finishes an authorization.

    The provider is asked for tokens only after the state, the browser, the provider and the issuer
    are proved and no error came. Raises InvalidInput or ProviderRejected with a message for the
    user, Conflict for another account, and what exchanging raises.
    """
    row, verifier = await _consume(services, provider, params, browser)
    manifest = services.providers.open(provider).manifest
    method = named_method(manifest, row.auth_method)
    if not isinstance(method, OAuth2Auth):
        raise InvalidInput(f"{manifest.name} is no longer connected in the browser.")
    variables = {name: str(value) for name, value in row.config.items()}
    _check_issuer(method, variables, params)
    if "error" in params:
        raise _refused(manifest.name, params["error"])
    code = params.get(method.authorization.code_param, "")
    if not 0 < len(code) <= _LONGEST:
        raise InvalidInput(f"{manifest.name} sent no authorization code.", hint=_BEGIN_AGAIN)

    ctx = services.providers.context(manifest, method, variables)
    try:
        tokens = await exchange_code(
            ctx,
            code=code,
            redirect_uri=row.redirect_uri,
            verifier=verifier if uses_pkce(method) else None,
            callback_params=params,
        )
    except ReauthorizationRequired as error:
        # invalid_grant means here that the code is wrong, old or used (RFC 6749 §5.2).
        raise ProviderRejected(
            f"{manifest.name} did not accept the authorization code.", hint=_BEGIN_AGAIN
        ) from error
    adapter = services.providers.open(provider).adapter
    connected = await adapter.process_oauth_tokens(ctx, tokens)
    owner = Owner(tenant_id=row.tenant_id, user_id=row.user_id, agent_id=row.agent_id)
    try:
        return await store_connected(
            services,
            owner,
            provider=provider,
            method=method,
            connected=connected,
            variables=variables,
        )
    except OtherAccount as error:
        async with services.database.reading() as tx:
            shared = await tx.integrations.account_in_use(provider, error.account_id)
        # At many providers all tokens of one account and client are one grant, which revoking any
        # of them ends: it must not end somebody else's connection.
        if not shared:
            await _give_back(services, owner, adapter, ctx, connected)
        raise


async def _give_back(
    services: Services,
    owner: Owner,
    adapter: IntegrationAdapter,
    ctx: Context,
    connected: Connected,
) -> None:
    """Revokes tokens that are not wanted, as well as can be: otherwise they would live for as long
    as the provider lets them."""
    provider = ctx.manifest.id
    envelope = CredentialEnvelope(
        integration_id="",
        user_id=owner.user_id,
        provider=provider,
        auth_id=auth_id(ctx.method),
        secrets=connected.secrets,
        token_expiry=connected.token_expiry,
        scopes=connected.scopes,
        metadata=connected.metadata,
        variables={**ctx.variables, **connected.variables},
    )
    try:
        results = await adapter.on_disconnect(ctx, envelope)
    except Exception:  # noqa: BLE001 - a plugin's code may raise anything
        _log.exception("revocation_broke", provider=provider)
        return
    async with services.database.transaction() as tx:
        await tx.audit.append(
            owner.tenant_id,
            action="authorization.given_back",
            actor=owner.actor,
            target=provider,
            metadata={line.token: line.outcome for line in results},
        )


async def _consume(
    services: Services, provider: str, params: Mapping[str, str], browser: str | None
) -> tuple[OAuthTransaction, str]:
    """The authorization that the state names, used up, with its verifier."""
    state = params.get("state", "")
    if not 0 < len(state) <= _LONGEST:
        raise InvalidInput("The address holds no state.", hint=_BEGIN_AGAIN)
    async with services.database.transaction() as tx:
        row = await tx.oauth.consume(digest(state))
        if row is not None:
            await tx.audit.append(
                row.tenant_id,
                action="authorization.returned",
                actor=f"user:{row.user_id}",
                target=row.provider,
                agent_id=row.agent_id,
                metadata={"same_browser": _same_browser(row, browser)},
            )
    if row is None:
        raise InvalidInput(
            "This authorization is unknown, was finished already, or took too long.",
            hint=_BEGIN_AGAIN,
        )
    # Used up even when it is refused here: a state that turned up in another browser has leaked.
    if not _same_browser(row, browser):
        raise InvalidInput("This authorization was begun in another browser.", hint=_BEGIN_AGAIN)
    if row.provider != provider:
        raise InvalidInput("This authorization belongs to another provider.", hint=_BEGIN_AGAIN)
    async with services.database.reading() as tx:
        return row, await open_verifier(services, tx, row)


def _same_browser(row: OAuthTransaction, browser: str | None) -> bool:
    return browser is not None and hmac.compare_digest(digest(browser), row.binding_hash)


def _check_issuer(
    method: OAuth2Auth, variables: Mapping[str, str], params: Mapping[str, str]
) -> None:
    """RFC 9207 §2.4: a code from another authorization server must not reach this one's token
    endpoint, nor the other way round (mix-up)."""
    expected = method.authorization.issuer
    if expected is None:
        return
    given = params.get("iss")
    if given is None:
        if method.authorization.iss_required:
            raise InvalidInput("The provider did not say who it is.", hint=_BEGIN_AGAIN)
        return
    if given != fill(expected, variables):
        raise InvalidInput("The answer came from another provider.", hint=_BEGIN_AGAIN)


def _refused(name: str, code: str) -> ProviderRejected:
    """The provider's error in our own words: its description is text that anybody can put into
    the address, so it is not shown."""
    known = _REFUSALS.get(code)
    if known is None:
        said = code if _CODE.fullmatch(code) else "an error"
        known = f"{name} answered with {said}."
    return ProviderRejected(known, code=code if code in _REFUSALS else None, hint=_BEGIN_AGAIN)
