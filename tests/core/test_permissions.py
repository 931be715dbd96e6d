"""The judgement of requests: by what they are, not by which tool they claim to come from."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core.credentials import BrokerBinding
from aura_core.errors import InvalidInput, PermissionDenied
from aura_core.manifest import BEARER, Rule
from aura_core.permissions import AgentPermissions, judge, require
from aura_core.placement import resolve_target

BINDING = BrokerBinding(
    provider="acme",
    base_url="https://api.acme.example",
    hosts=("api.acme.example", "mail.acme.example"),
    placements=(BEARER,),
    rules=(
        Rule(methods=("POST",), path="/users/*/messages/send", scope="email:send"),
        Rule(methods=("GET",), path="/users/*/messages/**", scope="email:read"),
        Rule(methods=("GET",), path="/files/*.json", scope="files:read"),
        Rule(methods=("GET",), path="/**/end", scope="ends:read"),
        Rule(methods=("GET",), path="/x", scope="mail:read", host="mail.acme.example"),
    ),
)


def decide(method: str, url: str, *scopes: str) -> str:
    permissions = AgentPermissions(scopes=frozenset(scopes))
    decision = judge(BINDING, permissions, method=method, target=resolve_target(BINDING, url))
    return decision.rule if decision.allowed else "no " + decision.rule


@pytest.mark.parametrize(
    ("method", "url", "scope"),
    [
        ("GET", "/users/me/messages", "email:read"),
        ("GET", "/users/me/messages/1", "email:read"),
        ("GET", "/users/me/messages/1/2/3?q=x", "email:read"),
        ("POST", "/users/me/messages/send", "email:send"),
        ("POST", "/users/me/messages/send/", "api:outbound"),
        ("POST", "/users/me/messages", "api:outbound"),
        ("DELETE", "/users/me/messages/1", "api:outbound"),
        ("get", "/users/me/messages", "api:outbound"),
        ("GET", "/users/messages", "api:outbound"),
        ("GET", "/files/a.json", "files:read"),
        ("GET", "/files/a.xml", "api:outbound"),
        ("GET", "/end", "ends:read"),
        ("GET", "/a/b/end", "ends:read"),
        ("GET", "/a/b/ending", "api:outbound"),
        ("GET", "https://mail.acme.example/x", "mail:read"),
        ("GET", "/x", "api:outbound"),
        ("GET", "https://mail.acme.example/users/me/messages", "api:outbound"),
    ],
)
def test_a_request_needs_its_scope(method: str, url: str, scope: str) -> None:
    assert decide(method, url, scope) == f"scope:{scope}"
    every = {"email:send", "email:read", "files:read", "ends:read", "mail:read", "api:outbound"}
    assert decide(method, url, *(every - {scope})) == f"no scope:{scope}"


def test_both_readings_of_an_encoded_slash_are_judged() -> None:
    # One segment for us, two for a server that decodes before it routes.
    url = "/users/me/messages%2Fsend"
    assert decide("POST", url, "api:outbound") == "no scope:email:send"
    assert decide("POST", url, "email:send") == "no scope:api:outbound"
    assert decide("POST", url, "email:send", "api:outbound").startswith("scope:")


def test_without_scopes_nothing_is_allowed() -> None:
    assert decide("GET", "/users/me/messages") == "no scope:email:read"
    with pytest.raises(PermissionDenied) as caught:
        require(
            BINDING,
            AgentPermissions(),
            method="GET",
            target=resolve_target(BINDING, "/users/me/messages"),
        )
    assert caught.value.rule == "scope:email:read"
    assert "email:read" in (caught.value.hint or "")


@pytest.mark.parametrize("scope", ["email", "Email:read", "email:read:more", "email:*", ""])
def test_scopes_have_a_form(scope: str) -> None:
    with pytest.raises(ValueError, match="scopes"):
        AgentPermissions(scopes=frozenset({scope}))


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z0-9%F2]{1,6}", fullmatch=True), max_size=6))
def test_more_scopes_never_forbid_what_fewer_allow(parts: list[str]) -> None:
    url = "/users/me/messages/" + "/".join(parts)
    try:
        target = resolve_target(BINDING, url)
    except InvalidInput:
        return  # refused before it is judged
    few = AgentPermissions(scopes=frozenset({"email:read"}))
    more = AgentPermissions(scopes=frozenset({"email:read", "api:outbound", "ends:read"}))
    allowed = judge(BINDING, few, method="GET", target=target).allowed
    assert not allowed or judge(BINDING, more, method="GET", target=target).allowed
