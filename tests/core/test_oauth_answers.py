"""Token endpoints' answers: where the parts are, what counts as an error, and what it means."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
import respx
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core import oauth
from aura_core.adapter import TokenAnswer
from aura_core.errors import (
    AuraError,
    ConfigurationError,
    ProviderRejected,
    ProviderUnavailable,
    RateLimited,
    ReauthorizationRequired,
)
from tests.core.providers import CLIENT_SECRET, NOW, TOKEN_URL, context, envelope, oauth_manifest

ANSWER = {"access_token": "at-1"}


def response(*lines: str) -> str:
    return "[auth.token.response]\n" + "\n".join(lines)


async def refreshed(tables: str, reply: httpx.Response, token: str = "") -> TokenAnswer:
    """What a refresh reads out of the reply."""
    with respx.mock:
        respx.post(TOKEN_URL).mock(return_value=reply)
        async with context(oauth_manifest(token=token, tables=tables)) as ctx:
            return await oauth.refresh(ctx, envelope(access_token="at-0", refresh_token="rt-0000"))


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("tables", "document", "expected"),
    [
        pytest.param(
            "",
            {**ANSWER, "refresh_token": "rt-1", "expires_in": 60, "scope": "a b", "id_token": "i"},
            {"refresh_token": "rt-1", "expires_at": at(60), "scopes": ("a", "b"), "id_token": "i"},
            id="as the RFC says",
        ),
        pytest.param(
            response(
                'access_token_path = "data.token"',
                'refresh_token_path = "data.renew[0]"',
                'scope_path = "data.rights"',
                'expires_path = "data.ttl"',
            ),
            {"data": {"token": "at-1", "renew": ["rt-1"], "rights": ["a", "b"], "ttl": 60}},
            {"refresh_token": "rt-1", "scopes": ("a", "b"), "expires_at": at(60)},
            id="other paths",
        ),
        pytest.param(
            response('expires_kind = "milliseconds"'),
            {**ANSWER, "expires_in": 60_000},
            {"expires_at": at(60)},
            id="milliseconds",
        ),
        pytest.param(
            response('expires_kind = "epoch_seconds"', 'expires_path = "expires_at"'),
            {**ANSWER, "expires_at": NOW.timestamp() + 60},
            {"expires_at": at(60)},
            id="epoch",
        ),
        pytest.param(
            response('expires_kind = "epoch_milliseconds"'),
            {**ANSWER, "expires_in": str(int(NOW.timestamp() * 1000) + 60_000)},
            {"expires_at": at(60)},
            id="epoch in milliseconds, as text",
        ),
        pytest.param(
            response('expires_kind = "iso8601"', 'expires_path = "until"'),
            {**ANSWER, "until": "2026-03-01T12:01:00Z"},
            {"expires_at": at(60)},
            id="ISO 8601",
        ),
        pytest.param(
            response("assumed_lifetime = 7200"),
            ANSWER,
            {"expires_at": at(7200)},
            id="an assumed lifetime",
        ),
        pytest.param("", ANSWER, {"expires_at": None}, id="no expiry: it does not expire"),
        pytest.param(
            "", {**ANSWER, "expires_in": "3600"}, {"expires_at": at(3600)}, id="seconds as text"
        ),
        pytest.param(
            response("assumed_lifetime = 7200"),
            {**ANSWER, "expires_in": 0},
            {"expires_at": at(7200)},
            id="zero seconds are not said",
        ),
        pytest.param(
            "",
            {**ANSWER, "expires_in": 10**30},
            {"expires_at": at(10 * 365 * 86400)},
            id="an absurd expiry",
        ),
        pytest.param(
            "", {**ANSWER, "expires_in": {"x": 1}}, {"expires_at": None}, id="nonsense expiry"
        ),
        pytest.param(
            response('scope_delimiter = ","'),
            {**ANSWER, "scope": "a,b c"},
            {"scopes": ("a", "b", "c")},
            id="scopes with commas",
        ),
        pytest.param("", ANSWER, {"scopes": None}, id="scopes as asked"),
        pytest.param("", {**ANSWER, "scope": ""}, {"scopes": ()}, id="no scopes granted"),
        pytest.param(
            response('alternate_container = "authed_user"'),
            {
                "ok": True,
                "authed_user": {"access_token": "at-1", "refresh_token": "rt-1", "scope": "a"},
            },
            {"refresh_token": "rt-1", "scopes": ("a",)},
            id="a second container",
        ),
        pytest.param(
            response("metadata = { team = 'team.id', url = 'instance_url' }"),
            {**ANSWER, "team": {"id": "T1"}},
            {"metadata": {"team": "T1"}},
            id="metadata",
        ),
        pytest.param(
            response('access_token_path = "[0].token"'),
            [{"token": "at-1"}],
            {"refresh_token": None},
            id="a list",
        ),
    ],
)
async def test_where_the_parts_are(tables: str, document: Any, expected: dict[str, Any]) -> None:
    answer = await refreshed(tables, httpx.Response(200, json=document))
    assert answer.access_token.get_secret_value() == "at-1"
    for name, value in expected.items():
        found = getattr(answer, name)
        assert (found.get_secret_value() if hasattr(found, "get_secret_value") else found) == value


async def test_form_encoded_answers_are_read_where_declared() -> None:
    reply = httpx.Response(200, text="access_token=at-1&expires_in=60&scope=a%2Cb")
    answer = await refreshed(response('format = "auto"', 'scope_delimiter = ","'), reply)
    assert answer.scopes == ("a", "b")
    assert answer.expires_at == at(60)
    with pytest.raises(ProviderUnavailable):
        await refreshed("", reply)
    with pytest.raises(ProviderUnavailable):
        await refreshed(response('format = "form"'), httpx.Response(200, json=ANSWER))


async def test_tokens_in_headers_and_cookies() -> None:
    tables = response(
        'from_headers = { access_token = "X-Session" }', 'from_cookies = { refresh_token = "R" }'
    )
    reply = httpx.Response(204, headers={"x-session": "at-1", "set-cookie": "R=rt-1; Path=/"})
    statuses = tables + "\nsuccess_statuses = [204]"
    answer = await refreshed(statuses, reply)
    assert answer.access_token.get_secret_value() == "at-1"
    assert answer.refresh_token is not None
    assert answer.refresh_token.get_secret_value() == "rt-1"


async def test_another_success_status() -> None:
    created = httpx.Response(201, json=ANSWER)
    with pytest.raises(ProviderRejected):
        await refreshed("", created)
    assert await refreshed(response("success_statuses = [201]"), created)


SLACK = response(
    '[auth.token.response.error]\npath = "ok"\nok = true\ncode_path = "error"',
)


def oauth_error(code: str, status: int = 400, **more: str) -> httpx.Response:
    return httpx.Response(status, json={"error": code, **more})


@pytest.mark.parametrize(
    ("tables", "reply", "error"),
    [
        pytest.param("", oauth_error("invalid_grant"), ReauthorizationRequired, id="grant"),
        pytest.param("", oauth_error("invalid_client", 401), ConfigurationError, id="client"),
        pytest.param("", oauth_error("unauthorized_client"), ConfigurationError, id="not allowed"),
        pytest.param("", oauth_error("invalid_scope"), ProviderRejected, id="scope"),
        pytest.param("", oauth_error("temporarily_unavailable"), ProviderUnavailable, id="busy"),
        pytest.param("", oauth_error("invalid_grant", 500), ProviderUnavailable, id="5xx"),
        pytest.param("", oauth_error("invalid_grant", 408), ProviderUnavailable, id="408"),
        pytest.param("", oauth_error("x", 429), RateLimited, id="429"),
        pytest.param(
            "", httpx.Response(400, text="<html>Bad</html>"), ProviderUnavailable, id="html"
        ),
        pytest.param(
            "", httpx.Response(200, text="<html>Hi</html>"), ProviderUnavailable, id="html in 200"
        ),
        pytest.param("", httpx.Response(200, text="[" * 10**5), ProviderUnavailable, id="nested"),
        pytest.param("", httpx.Response(302, json={}), ProviderRejected, id="redirect"),
        pytest.param("", oauth_error("invalid_grant", 200), ReauthorizationRequired, id="in 200"),
        pytest.param("", httpx.Response(200, json={}), ProviderRejected, id="no token"),
        pytest.param("", httpx.Response(200, json={"access_token": 7}), ProviderRejected, id="int"),
        pytest.param("", httpx.Response(200, json={"access_token": ""}), ProviderRejected, id="''"),
        pytest.param(
            "", httpx.Response(200, json={"access_token": "a\nb"}), ProviderRejected, id="newline"
        ),
        pytest.param(
            SLACK,
            httpx.Response(200, json={"ok": False, "error": "invalid_grant"}),
            ReauthorizationRequired,
            id="declared error in 200",
        ),
        pytest.param(
            SLACK,
            httpx.Response(200, json={"ok": 1, **ANSWER}),
            ProviderRejected,
            id="1 is not true",
        ),
        pytest.param(
            response('invalid_grant_codes = ["BAD_REFRESH_TOKEN"]', 'error_path = "status"'),
            httpx.Response(400, json={"status": "BAD_REFRESH_TOKEN"}),
            ReauthorizationRequired,
            id="another word for invalid_grant",
        ),
        pytest.param(
            response('invalid_client_codes = ["bad_client_secret"]'),
            oauth_error("bad_client_secret"),
            ConfigurationError,
            id="another word for invalid_client",
        ),
        pytest.param(
            "",
            httpx.Response(200, content=b'{"access_token":"' + b"a" * 2**20 + b'"}'),
            ProviderRejected,
            id="a huge body",
        ),
    ],
)
async def test_what_an_answer_means(
    tables: str, reply: httpx.Response, error: type[AuraError]
) -> None:
    with pytest.raises(error) as caught:
        await refreshed(tables, reply)
    assert type(caught.value) is error


@pytest.mark.parametrize("fault", [httpx.ConnectTimeout, httpx.ReadTimeout, httpx.ReadError])
async def test_no_answer_is_transient(fault: type[Exception]) -> None:
    with respx.mock:
        respx.post(TOKEN_URL).mock(side_effect=fault("..."))
        async with context(oauth_manifest()) as ctx:
            with pytest.raises(ProviderUnavailable, match=r"login\.acme\.example"):
                await oauth.refresh(ctx, envelope(refresh_token="rt-0000"))


async def test_retry_after_is_read() -> None:
    with pytest.raises(RateLimited) as caught:
        await refreshed("", httpx.Response(429, headers={"retry-after": "17"}))
    assert caught.value.retry_after == 17


async def test_the_providers_words_come_without_secrets() -> None:
    words = f"token rt-0000 of {CLIENT_SECRET} is\x1b[31m gone"
    with pytest.raises(ReauthorizationRequired) as caught:
        await refreshed("", oauth_error("invalid_grant", error_description=words))
    assert "token *** of *** is" in str(caught.value)
    assert "\x1b" not in str(caught.value)


async def test_an_answer_shows_no_secret() -> None:
    answer = await refreshed("", httpx.Response(200, json={**ANSWER, "refresh_token": "rt-9"}))
    assert "at-1" not in repr(answer)
    assert "rt-9" not in repr(answer)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
FIELDS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        (
            "access_token",
            "refresh_token",
            "expires_in",
            "scope",
            "error",
            "id_token",
            "token_type",
        ),
        JSON,
    ),
)


@settings(deadline=None)
@given(document=FIELDS, status=st.sampled_from([200, 201, 302, 400, 401, 403, 500]))
def test_any_document_is_an_answer_or_an_error_of_ours(document: Any, status: int) -> None:
    body = json.dumps(document).encode()

    def answering(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=body)

    async def run() -> TokenAnswer | None:
        transport = httpx.MockTransport(answering)
        async with context(oauth_manifest(), transport=transport) as ctx:
            try:
                return await oauth.refresh(ctx, envelope(refresh_token="rt-0000"))
            except AuraError:
                return None

    answer = asyncio.run(run())
    if answer is not None:
        assert status == 200
        assert answer.access_token.get_secret_value() == document["access_token"]
        renewed = answer.refresh_token and answer.refresh_token.get_secret_value()
        assert (renewed or "") == (document.get("refresh_token") or ""), "none is dropped unsaid"
