"""The manifest's own calls (verification, userinfo, discovery), made with the credential."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from aura_core.adapter._values import Context
from aura_core.api import USER_AGENT, document, error_in_success, failure, fetch, redact
from aura_core.credentials import BrokerBinding, bind, fill
from aura_core.errors import (
    AuraError,
    ConfigurationError,
    InvalidInput,
    ProviderRejected,
    ReauthorizationRequired,
)
from aura_core.manifest import Call, read_path
from aura_core.placement import place, resolve_target

__all__ = ["Told", "binding", "make_call", "placed", "public_values"]


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a call's answer says: the metadata that the manifest asks for, and whose account."""

    metadata: Mapping[str, Any]
    account_id: str | None


def public_values(ctx: Context, secrets: Mapping[str, SecretStr]) -> dict[str, str]:
    """Values for templates of the binding, which travels to machines: nothing secret among them."""
    values = {"user_agent": USER_AGENT}
    if ctx.client is not None:
        values["client_id"] = ctx.client.client_id
    for field in getattr(ctx.method, "fields", ()):
        if not field.secret and field.name in secrets:
            values[field.name] = secrets[field.name].get_secret_value()
    return {**values, **ctx.variables}


def binding(ctx: Context, secrets: Mapping[str, SecretStr]) -> BrokerBinding:
    """The connection's binding. Raises :class:`ConfigurationError` for a variable without value."""
    try:
        return bind(ctx.manifest, ctx.method, public_values(ctx, secrets))
    except KeyError as error:
        raise ConfigurationError(
            f"{ctx.manifest.name}: the connection has no value for {error.args[0]}.",
            hint="Connect the account again.",
        ) from None


def placed(ctx: Context, secrets: Mapping[str, SecretStr]) -> dict[str, SecretStr]:
    """Those secrets that go into a request, and nothing else. The operator's client is among them
    where the manifest says so (Etsy wants its id and secret beside the token)."""
    known = dict(secrets)
    if ctx.client is not None:
        known.setdefault("client_id", SecretStr(ctx.client.client_id))
        if ctx.client.client_secret is not None:
            known.setdefault("client_secret", ctx.client.client_secret)
    return {name: known[name] for name in ctx.method.placed if name in known}


async def make_call(ctx: Context, call: Call, secrets: Mapping[str, SecretStr]) -> Told:
    """Make the call. Raises :class:`ReauthorizationRequired` (401), :class:`ProviderRejected`,
    :class:`ProviderUnavailable`, :class:`RateLimited`, and :class:`InvalidInput` for a variable
    that has no value."""
    values = public_values(ctx, secrets)
    bound, url = _call_binding(ctx, call, values)
    body = None if call.json_body is None else json.dumps(call.json_body).encode()
    headers = {} if body is None else {"content-type": "application/json"}
    carried = placed(ctx, secrets)
    request = place(
        bound,
        carried,
        method=call.method,
        target=resolve_target(bound, url),
        headers={"accept": "application/json", **headers},
        body=body,
    )
    reply = await fetch(
        ctx.http, request.method, request.url, headers=request.headers, content=request.body
    )
    told = document(reply)
    found = error_in_success(told, call.error)
    if found is not None:
        raise _refused(ctx, found, carried)
    error = failure(
        reply,
        name=ctx.manifest.name,
        rate_limit=ctx.manifest.api.rate_limit,
        secrets=carried.values(),
        now=ctx.now(),
    )
    if error is None and reply.status not in call.success_statuses:
        error = ProviderRejected(
            f"{ctx.manifest.name} answered with status {reply.status}.", status=reply.status
        )
    if error is not None:
        raise error
    metadata = {key: read_path(told, path) for key, path in call.metadata.items()}
    account = read_path(told, call.account_path) if call.account_path else None
    return Told(
        metadata={key: value for key, value in metadata.items() if value is not None},
        account_id=None if account is None else str(account),
    )


def _refused(
    ctx: Context, found: tuple[str | None, str], secrets: Mapping[str, SecretStr]
) -> AuraError:
    said = redact(": ".join(part for part in found if part) or "no reason", secrets.values())
    return ReauthorizationRequired(
        f"{ctx.manifest.name} does not accept the credential ({said}).",
        hint="Connect the account again.",
    )


def _call_binding(ctx: Context, call: Call, values: Mapping[str, str]) -> tuple[BrokerBinding, str]:
    """A binding for one call: early in a connection not every variable of the API is known yet,
    so it holds what can be filled in, and the call's own origin is its base."""
    try:
        url = fill(call.url, values)
        own = {name: fill(value, values) for name, value in call.headers.items()}
    except KeyError as error:
        raise InvalidInput(
            f"{ctx.manifest.name} needs a value for {error.args[0]}.",
            fields={str(error.args[0]): "is required"},
        ) from None
    parts = urlsplit(url)
    bare = {name: urlsplit(v).netloc if "://" in v else v for name, v in values.items()}
    return (
        BrokerBinding(
            provider=ctx.manifest.id,
            base_url=f"{parts.scheme}://{parts.netloc}",
            hosts=tuple(_filled({h: h for h in ctx.manifest.hosts}, bare).values()),
            placements=ctx.method.placements,
            headers={**_filled(ctx.manifest.api.headers, values), **own},
            query=_filled(ctx.manifest.api.query, values),
            relocations=dict(ctx.manifest.relocations),
        ),
        url,
    )


def _filled(templates: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Those templates whose variables are all known."""
    found = {}
    for name, template in templates.items():
        try:
            found[name] = fill(template, values)
        except KeyError:
            continue
    return found
