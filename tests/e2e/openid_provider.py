"""The OpenID provider of ``tests/oidc_provider`` as a test sees it: its people, its own view of
what Aura asked of it, and the manifest by which an operator would add it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.e2e.browser import Browser, Page
from tests.e2e.programs import own_environment, program

__all__ = ["ID", "PATH", "SCOPES", "OpenIdProvider", "User", "openid_provider"]

_TREE = Path(__file__).resolve().parents[2]
_NODE = _TREE / ".cache/tools/bin/node"
_SERVER = _TREE / "tests/oidc_provider/server.mjs"

ID = "openid_example"
PATH = f"/api/integrations/{ID}"
SCOPES = ["openid", "email", "offline_access"]

_MANIFEST = """\
id = "{id}"
name = "Example identity"
category = "identity"
hosts = ["{host}"]

[api]
base_url = "{issuer}"

[[api.rules]]
methods = ["GET"]
path = "/me"
scope = "profile:read"

[[auth]]
strategy = "oauth2"
scopes = {scopes}
client = {{ id_env = "OPENID_EXAMPLE_CLIENT_ID" }}
verify = {{ url = "{issuer}/me", account_path = "sub" }}
userinfo = {{ url = "{issuer}/me", account_path = "sub", metadata = {{ email = "email" }} }}
introspection_url = "{issuer}/token/introspection"

[auth.authorization]
url = "{issuer}/auth"
pkce = "required"
offline_scope = "offline_access"
params = {{ prompt = "consent" }}
issuer = "{issuer}"
iss_required = true

[auth.token]
url = "{issuer}/token"
auth = "none"

[auth.refresh]
rotation = "single_use"
reuse = "revokes_family"

[auth.revocation]
url = "{issuer}/token/revocation"
"""


@dataclass(frozen=True, kw_only=True)
class OpenIdProvider:
    """The running provider."""

    issuer: str
    client_id: str
    _control: httpx.Client = field(repr=False)

    @property
    def manifest(self) -> str:
        """Everything that Aura is told of this provider."""
        return _MANIFEST.format(
            id=ID,
            issuer=self.issuer,
            host=urlsplit(self.issuer).netloc,
            scopes=str(SCOPES).replace("'", '"'),
        )

    def dropped_into(self, folder: Path) -> dict[str, str]:
        """The operator drops the manifest into a folder; answers what else they set."""
        folder.mkdir(exist_ok=True)
        (folder / "openid-example.toml").write_text(self.manifest)
        return {
            "AURA_MANIFESTS": str(folder),
            "AURA_ALLOW_LOOPBACK_HTTP": "1",
            "OPENID_EXAMPLE_CLIENT_ID": self.client_id,
        }

    def calls(self, *, count: int = 0, **wanted: str) -> list[dict[str, Any]]:
        """Calls that came in, oldest first; waits until there are ``count``."""
        answer = self._control.get("/calls", params={**wanted, "count": str(count)})
        return list(answer.json())

    def issued(self, account: str, kind: str) -> list[dict[str, Any]]:
        """The tokens of an account, oldest first."""
        answer = self._control.get("/issued", params={"account": account, "kind": kind})
        return list(answer.json())

    def is_active(self, token: dict[str, Any]) -> bool:
        """What introspection says (RFC 7662)."""
        answer = self._control.get("/introspect", params={"token": token["value"]})
        return bool(answer.json()["active"])

    def issue_for(self, seconds: int) -> None:
        """How long access tokens live that are issued from now on."""
        self._control.put("/access-token-seconds", content=str(seconds)).raise_for_status()

    def revoke(self, token: dict[str, Any]) -> None:
        """What the user does on the provider's own page of connected applications."""
        answer = httpx.post(
            f"{self.issuer}/token/revocation",
            data={"client_id": self.client_id, "token": token["value"]},
            trust_env=False,
        )
        answer.raise_for_status()

    def sign_in(self, browser: Browser, page: Page, account: str) -> Page:
        """The page behind the login, where the user is asked for consent; a browser that is
        signed in already comes there at once."""
        assert page.forms, page
        if "login" in page.forms[0].fields:
            page = browser.submit(page, login=account, password="any")
        assert "offline access" in page.text, page
        return page


@dataclass(frozen=True, kw_only=True)
class User:
    """Somebody with a tenant of their own here, and an account at the provider."""

    account: str
    api: httpx.Client = field(repr=False)
    provider: OpenIdProvider

    def link(self) -> str:
        answer = self.api.post(f"{PATH}/link", json={})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["url"])

    def departed(self, browser: Browser) -> Page:
        """Opens a link and goes on from Aura's question: the provider's first page."""
        question = browser.get(self.link())
        assert question.status == 200, question
        return browser.submit(question)

    def consent_page(self, browser: Browser, *, account: str | None = None) -> Page:
        """Opens a link and signs in at the provider."""
        return self.provider.sign_in(browser, self.departed(browser), account or self.account)

    def connect(self, browser: Browser) -> dict[str, Any]:
        page = browser.submit(self.consent_page(browser))
        assert page.status == 200, page
        return self.connected()

    def callback(self, browser: Browser) -> str:
        """The address that the provider sends the browser to after consent, not opened yet."""
        return browser.submit(self.consent_page(browser), stops_before=self.origin).url

    @property
    def origin(self) -> str:
        return str(self.api.base_url)

    def connection(self) -> dict[str, Any] | None:
        rows = self.api.get("/api/integrations").json()["integrations"]
        return next((row for row in rows if row["provider"] == ID), None)

    def connected(self) -> dict[str, Any]:
        """The connection, which is there (be it disconnected)."""
        connection = self.connection()
        assert connection is not None
        return connection

    def validate(self) -> bool:
        """Whether Aura says that the provider accepts the credential."""
        answer = self.api.post(f"{PATH}/validate")
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["valid"])

    def exchanges(self) -> list[int]:
        """How the provider answered the codes that came for anybody."""
        calls = self.provider.calls(endpoint="token", grant="authorization_code")
        return [call["status"] for call in calls]

    def refreshes(self, *, count: int = 0) -> list[dict[str, Any]]:
        """The refreshes that the provider saw for this account; waits for ``count``."""
        return self.provider.calls(grant="refresh_token", account=self.account, count=count)


@contextmanager
def openid_provider(log: Path, *, access_token_seconds: int = 3600) -> Iterator[OpenIdProvider]:
    """The provider for as long as the block runs."""
    assert _NODE.exists(), "node is missing: run `make tools`"
    environment = own_environment(ACCESS_TOKEN_SECONDS=str(access_token_seconds))
    with (
        program([str(_NODE), str(_SERVER)], log=log, environment=environment) as said,
        httpx.Client(base_url=said["control"], timeout=60, trust_env=False) as control,
    ):
        yield OpenIdProvider(issuer=said["issuer"], client_id=said["client_id"], _control=control)
