"""Both sides of a connection in one process: a client's context, and the twin that answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
from pydantic import SecretStr

from aura_core import oauth
from aura_core.adapter import (
    Context,
    OAuthClientSettings,
    TokenAnswer,
)
from aura_core.api import http_client
from aura_core.manifest import Manifest
from aura_core.testing.twin import (
    Twin,
    consent,
    create_twin,
)
from tests.core.providers import CLIENT_SECRET, NOW

__all__ = ["BACK", "CLIENT", "ORIGIN", "Side", "held", "side"]

ORIGIN = "http://127.0.0.1:9000"
BACK = "https://aura.example/callback"
CLIENT = OAuthClientSettings(client_id="client-1", client_secret=SecretStr(CLIENT_SECRET))


@dataclass
class Side:
    """Both sides of a test: the context of the client's, and the twin."""

    ctx: Context
    twin: Twin
    now: datetime = NOW

    async def callback(self, **options: Any) -> dict[str, str]:
        self.verifier = oauth.new_verifier()
        url = oauth.authorization_url(
            self.ctx, redirect_uri=BACK, state="st", verifier=self.verifier
        )
        back = await consent(self.ctx.http, url, **options)
        assert back.startswith(BACK + "?")
        return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}

    async def exchange(self, given: dict[str, str], **changed: Any) -> TokenAnswer:
        options = {"code": given["code"], "redirect_uri": BACK, "verifier": self.verifier}
        return await oauth.exchange_code(self.ctx, **{**options, **changed}, callback_params=given)

    async def connect(self) -> TokenAnswer:
        return await self.exchange(await self.callback())


@asynccontextmanager
async def side(manifest: Manifest, **options: Any) -> AsyncIterator[Side]:
    chosen: dict[str, Any] = {"client": CLIENT, **options}
    holder: list[Side] = []
    app = create_twin(manifest, origin=ORIGIN, clock=lambda: holder[0].now, **chosen)
    async with http_client(transport=httpx.ASGITransport(app)) as http:
        relocated = manifest.relocated(ORIGIN)
        ctx = Context(
            manifest=relocated,
            method=relocated.auth_method(),
            http=http,
            now=lambda: holder[0].now,
            client=CLIENT,
        )
        holder.append(Side(ctx=ctx, twin=app.state.twin))
        yield holder[0]


def held(answer: TokenAnswer) -> dict[str, str]:
    found = {"access_token": answer.access_token.get_secret_value()}
    if answer.refresh_token is not None:
        found["refresh_token"] = answer.refresh_token.get_secret_value()
    return found
