"""The contract that integrations inherit: each of its clauses fails for what breaks it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from aura_core.adapter import (
    Connected,
    Context,
    OAuthAdapter,
    RevocationResult,
    TokenAnswer,
    TokenRefresh,
    default_adapter,
)
from aura_core.credentials import CredentialEnvelope, CredentialPayload
from aura_core.registry import Integration, Registry
from aura_core.testing.contract import IntegrationContract


@pytest.fixture(scope="module")
def google() -> Integration:
    return Registry.discover().open("google")


class Contract(IntegrationContract):
    __test__ = False
    provider = "google"


class ShowsToken(OAuthAdapter):
    """Keeps a token among what is stored in the open."""

    id = "google"

    async def process_oauth_tokens(self, ctx: Context, tokens: TokenAnswer) -> Connected:
        connected = await super().process_oauth_tokens(ctx, tokens)
        return replace(connected, metadata={"token": tokens.access_token.get_secret_value()})


class RenewsNothing(OAuthAdapter):
    """Answers a refresh with the old token."""

    id = "google"

    async def refresh_token(
        self, ctx: Context, envelope: CredentialEnvelope
    ) -> TokenRefresh | None:
        assert envelope.access_token is not None
        return TokenRefresh(access_token=envelope.access_token, token_expiry=None)


class RevokesNothing(OAuthAdapter):
    """Says that it revoked, and did not."""

    id = "google"

    async def on_disconnect(
        self, ctx: Context, envelope: CredentialEnvelope
    ) -> tuple[RevocationResult, ...]:
        return (RevocationResult(token="access_token", outcome="revoked"),)


class DeliversAll(OAuthAdapter):
    """Puts the refresh token on machines."""

    id = "google"

    def build_vm_credential_payload(
        self, ctx: Context, envelope: CredentialEnvelope, *, connection_revision: int
    ) -> CredentialPayload | None:
        payload = super().build_vm_credential_payload(
            ctx, envelope, connection_revision=connection_revision
        )
        return payload and payload.model_copy(update={"fields": dict(envelope.secrets)})


INCOMPRESSIBLE = "".join(hashlib.sha256(bytes([n % 256, n // 256])).hexdigest() for n in range(999))


@pytest.mark.parametrize(
    ("bend", "clause"),
    [
        (
            lambda i: replace(
                i, adapter=default_adapter(i.manifest.model_copy(update={"id": "x"}))
            ),
            "test_the_adapter_says_who_it_is",
        ),
        (lambda i: replace(i, tools=i.tools[1:]), "test_tools_are_those_of_the_manifest"),
        (
            lambda i: replace(
                i,
                manifest=i.manifest.model_copy(
                    update={
                        "tools": (i.manifest.tools[0].model_copy(update={"scopes": ("more",)}),)
                    }
                ),
            ),
            "test_tools_need_only_scopes_that_are_asked_for",
        ),
        (
            lambda i: replace(i, tools_source="# " + INCOMPRESSIBLE),
            "test_the_skill_builds_alike_each_time_and_stays_small",
        ),
        (
            lambda i: replace(i, manifest=i.manifest.model_copy(update={"hosts": ("a.example",)})),
            "test_every_rule_is_for_a_host_of_the_manifest",
        ),
    ],
)
def test_a_clause_fails_for_what_breaks_it(
    google: Integration, bend: Callable[[Integration], Integration], clause: str
) -> None:
    check = getattr(Contract(), clause)
    check(google)
    with pytest.raises(AssertionError):
        check(bend(google))


@pytest.mark.parametrize(
    ("adapter", "clause"),
    [
        (ShowsToken, "test_it_connects_renews_and_disconnects"),
        (RenewsNothing, "test_it_connects_renews_and_disconnects"),
        (RevokesNothing, "test_it_connects_renews_and_disconnects"),
        (DeliversAll, "test_machines_get_nothing_that_renews"),
    ],
)
async def test_a_careless_adapter_is_caught(
    google: Integration, adapter: type[OAuthAdapter], clause: str
) -> None:
    check = getattr(Contract(), clause)
    await check(google)
    with pytest.raises(AssertionError):
        await check(replace(google, adapter=adapter()))
