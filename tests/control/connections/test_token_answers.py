"""Answers of a token endpoint that are not what they should be: what each does to a connection.

The tokens that are stored stay as they were, the connection says in the provider's words what is
wrong, no secret is in them, and the next good answer mends it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import httpx
import pytest

from aura_control.db.models import ConnectionState
from aura_core.errors import ReauthorizationRequired, RefreshFailed
from tests.control.connections.conftest import Control
from tests.control.connections.provider import Fault

GOOD: dict[str, Any] = {"access_token": "at-new-0123", "refresh_token": "rt-new-0123"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer, the state that it leaves, and words of the reason."""

    body: bytes
    state: ConnectionState
    says: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"content-type": "application/json"})

    @property
    def fault(self) -> Fault:
        async def answer(_: httpx.Request) -> httpx.Response:
            return httpx.Response(
                self.status, stream=httpx.ByteStream(self.body), headers=self.headers
            )

        return answer


def unclear(body: bytes | dict[str, Any], says: str, **more: Any) -> Answer:
    """A success that cannot be used: the token may be spent, and nobody can say."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(body=body, state=ConnectionState.UNCERTAIN, says=says, **more)


def refused(body: dict[str, Any], says: str, status: int = 400, **more: Any) -> Answer:
    """An error that the provider says: the token is as good as before."""
    return Answer(
        body=json.dumps(body).encode(),
        state=more.pop("state", ConnectionState.EXPIRING),
        says=says,
        status=status,
        **more,
    )


NO_TOKEN = "without an access token"
NO_DOCUMENT = "no document that could be read"
BAD_REFRESH = "with a refresh token that cannot be one"
REAUTH = ConnectionState.REAUTH_REQUIRED
HTML = {"content-type": "text/html"}

ANSWERS = {
    "empty": unclear(b"", NO_DOCUMENT),
    "html": unclear(b"<html><body>Maintenance</body></html>", NO_DOCUMENT, headers=HTML),
    "not json": unclear(b"access granted", NO_DOCUMENT),
    "half of it": unclear(b'{"access_token": "at-new-0123", "refr', NO_DOCUMENT),
    "a number": unclear(b"42", NO_DOCUMENT),
    "deep lists": unclear(b"[" * 100_000, NO_DOCUMENT),
    "deep objects": unclear(b'{"a":' * 100_000, NO_DOCUMENT),
    "another charset": unclear('{"access_token": "tökén"}'.encode("latin-1"), NO_DOCUMENT),
    "huge": unclear(b'{"access_token": "' + b"a" * 2**20 + b'"}', "is larger than"),
    "damaged gzip": unclear(
        b"\x1f\x8b\x08garbage", "is damaged", headers={"content-encoding": "gzip"}
    ),
    "no token": unclear({"ok": True}, NO_TOKEN),
    "token null": unclear({**GOOD, "access_token": None}, NO_TOKEN),
    "token number": unclear({**GOOD, "access_token": 7}, NO_TOKEN),
    "token object": unclear({**GOOD, "access_token": {"value": "at"}}, NO_TOKEN),
    "token list": unclear({**GOOD, "access_token": ["at"]}, NO_TOKEN),
    "token true": unclear({**GOOD, "access_token": True}, NO_TOKEN),
    "token empty": unclear({**GOOD, "access_token": ""}, NO_TOKEN),
    "token blank": unclear({**GOOD, "access_token": "  "}, NO_TOKEN),
    "token with a line": unclear({**GOOD, "access_token": "at\r\nX-Evil: 1"}, NO_TOKEN),
    "token with a zero": unclear({**GOOD, "access_token": "at\0new"}, NO_TOKEN),
    "token not ascii": unclear({**GOOD, "access_token": "tökén"}, NO_TOKEN),
    "token of 70 KB": unclear({**GOOD, "access_token": "a" * 70_000}, NO_TOKEN),
    "refresh number": unclear({**GOOD, "refresh_token": 7}, BAD_REFRESH),
    "refresh object": unclear({**GOOD, "refresh_token": {}}, BAD_REFRESH),
    "refresh false": unclear({**GOOD, "refresh_token": False}, BAD_REFRESH),
    "refresh with a line": unclear({**GOOD, "refresh_token": "rt\nnew"}, BAD_REFRESH),
    "refresh of 70 KB": unclear({**GOOD, "refresh_token": "r" * 70_000}, BAD_REFRESH),
    "dpop": unclear({**GOOD, "token_type": "DPoP"}, "not a bearer token"),
    "mac": unclear({**GOOD, "token_type": "mac"}, "not a bearer token"),
    "error in success": refused(
        {"error": "invalid_request", "error_description": "Nope."},
        "invalid_request: Nope.",
        status=200,
    ),
    "grant in success": refused(
        {"error": "invalid_grant", "error_description": "Revoked."},
        "Revoked.",
        status=200,
        state=REAUTH,
    ),
    "grant": refused(
        {"error": "invalid_grant", "error_description": "Token rt-SECRET expired."},
        "invalid_grant: Token *** expired.",
        state=REAUTH,
    ),
    "error object": refused({"error": {"message": "Broken."}}, "Broken."),
    "error number": refused({"error": 42}, "42"),
    "error list": refused({"error": ["invalid_grant"]}, "no reason"),
    "words that are none": refused({"error": "x", "error_description": {"a": 1}}, "x"),
    "words with control characters": refused(
        {"error": "x", "error_description": "a\x1b[31m\nb"}, "x: a [31m b"
    ),
    "words without end": refused({"error": "x", "error_description": "w" * 9999}, "www..."),
    "html refusal": Answer(
        body=b"<html>Bad request</html>",
        status=400,
        headers=HTML,
        state=ConnectionState.EXPIRING,
        says=NO_DOCUMENT,
    ),
    "redirect": refused({}, "no reason", status=302),
    "gateway": Answer(
        body=b"<html>Bad gateway</html>",
        status=502,
        headers=HTML,
        state=ConnectionState.EXPIRING,
        says="failed with status 502",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_a_bad_answer_does(control: Control, name: str) -> None:
    answer = ANSWERS[name]
    await control.connect("brittle")
    before = await control.secrets("brittle")
    secret = before["refresh_token"]
    control.clock.forward(minutes=59)
    fault = Answer(
        body=answer.body.replace(b"rt-SECRET", secret.encode()),
        state=answer.state,
        says=answer.says,
        status=answer.status,
        headers=answer.headers,
    ).fault
    control.provider.faults.append(fault)
    asks_user = answer.state is REAUTH
    with pytest.raises(ReauthorizationRequired if asks_user else RefreshFailed):
        await renew(control)
    assert control.provider.count("/token") == 2, "one call, whatever it answered"
    found = await control.connection("brittle")
    assert found.state is answer.state
    assert answer.says in str(found.reason)
    assert not any(value in str(found.reason) for value in (*before.values(), "the-client-secret"))
    assert found.refresh_generation is None
    assert await control.secrets("brittle") == before
    if not asks_user:
        await renew(control)
        assert (await control.connection("brittle")).state is ConnectionState.CONNECTED


async def renew(control: Control, provider: str = "brittle") -> None:
    connection = await control.connection(provider)
    await control.services.refresher.refresh(
        tenant_id=connection.tenant_id, connection_id=connection.id
    )


NEVER = None
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("more", "lives"),
    [
        pytest.param("", NEVER, id="not said"),
        pytest.param('"expires_in": -5', NEVER, id="negative"),
        pytest.param('"expires_in": 0', NEVER, id="zero"),
        pytest.param('"expires_in": NaN', NEVER, id="NaN"),
        pytest.param('"expires_in": Infinity', NEVER, id="infinite"),
        pytest.param('"expires_in": true', NEVER, id="bool"),
        pytest.param('"expires_in": "soon"', NEVER, id="words"),
        pytest.param('"expires_in": null', NEVER, id="null"),
        pytest.param('"expires_in": [3600]', NEVER, id="list"),
        pytest.param('"expires_in": "3600"', HOUR, id="text"),
        pytest.param('"expires_in": 3600.0', HOUR, id="float"),
        pytest.param(f'"expires_in": {10**400}', NEVER, id="beyond every number"),
        pytest.param('"expires_in": 1e300', timedelta(days=3650), id="huge"),
        pytest.param('"expires_in": 1, "expires_in": 3600', HOUR, id="said twice"),
        pytest.param('"expires_in": 3600, "scope": [1, 2]', HOUR, id="scopes that are none"),
        pytest.param('"expires_in": 3600, "scope": {"a": 1}', HOUR, id="scopes as an object"),
        pytest.param('"expires_in": 3600, "token_type": 7', HOUR, id="type that is none"),
        pytest.param('"expires_in": 3600, "token_type": "bot"', HOUR, id="another word for bearer"),
        pytest.param('"expires_in": 3600, "id_token": {}', HOUR, id="id token that is none"),
    ],
)
async def test_what_is_said_beside_good_tokens(
    control: Control, more: str, lives: timedelta | None
) -> None:
    await control.connect("brittle")
    scopes = (await control.connection("brittle")).scopes
    control.clock.forward(minutes=59)
    fields = ", ".join(part for part in (json.dumps(GOOD)[1:-1], more) if part)
    control.provider.faults.append(
        Answer(body=f"{{{fields}}}".encode(), state=REAUTH, says="", headers=HTML).fault
    )
    await renew(control)
    found = await control.connection("brittle")
    assert found.state is ConnectionState.CONNECTED
    assert await control.secrets("brittle") == GOOD
    assert found.token_expiry == (None if lives is None else control.clock.now + lives)
    assert found.scopes == scopes
