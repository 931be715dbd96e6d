"""Calls to providers: no redirect followed, no proxy used, no private address reached."""

from __future__ import annotations

import io
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aura_core import __version__
from aura_core.addresses import may_connect
from aura_core.errors import AddressRefused, InvalidInput, ProviderUnavailable
from aura_core.placement import OutgoingRequest

__all__ = ["CheckedResolver", "ProviderClient", "end_to_end", "provider_client"]

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_DROPPED = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
     "te", "trailer", "trailers", "transfer-encoding", "upgrade", "content-length",
     "set-cookie", "set-cookie2", "alt-svc", "date", "server"}
)  # fmt: skip
"""Hop-by-hop headers (RFC 9110 §7.6.1), what is set anew, and cookies: they are a session of the
daemon's at the provider, and as good as the credential."""


class CheckedResolver(AbstractResolver):
    """Resolves names to addresses that may be connected to (``aura_core.addresses``).

    The connector connects to just what this answers. ``inside``: the names are those that the
    operator lets lie inside their network.
    """

    def __init__(self, inner: AbstractResolver, *, inside: bool = False) -> None:
        self._inner = inner
        self._inside = inside

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        opened = (host,) if self._inside else ()
        usable = [
            result
            for result in found
            if may_connect(result["host"], host=host, private_hosts=opened)
        ]
        if not usable:
            raise AddressRefused(host)
        return usable

    async def close(self) -> None:
        await self._inner.close()


@asynccontextmanager
async def provider_client(
    *,
    total_seconds: float = 120.0,
    read_seconds: float = 60.0,
    resolver: AbstractResolver | None = None,
) -> AsyncIterator[ProviderClient]:
    """A client with connections of its own, in three sessions that share none: for public
    addresses, for names that the operator lets lie inside their network, and for plain http to
    loopback: a provider on the same machine, as the operator has chosen.
    """
    timeout = aiohttp.ClientTimeout(total=total_seconds, sock_connect=10.0, sock_read=read_seconds)
    names = resolver or aiohttp.ThreadedResolver()
    async with (
        _session(timeout, CheckedResolver(names)) as public,
        _session(timeout, CheckedResolver(names, inside=True)) as inside,
        _session(timeout, aiohttp.ThreadedResolver()) as loopback,
    ):
        yield ProviderClient(public=public, inside=inside, loopback=loopback)


def _session(timeout: aiohttp.ClientTimeout, resolver: AbstractResolver) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(resolver=resolver),
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        # What comes compressed is passed on compressed: unpacking is how bombs go off.
        auto_decompress=False,
        max_line_size=16 * 1024,
        max_field_size=16 * 1024,
        skip_auto_headers=("Accept-Encoding", "User-Agent", "Content-Type"),
        headers={"User-Agent": f"aura-vmd/{__version__}"},
    )


class ProviderClient:
    """Sends placed requests."""

    def __init__(
        self,
        *,
        public: aiohttp.ClientSession,
        inside: aiohttp.ClientSession,
        loopback: aiohttp.ClientSession,
    ) -> None:
        self._public = public
        self._inside = inside
        self._loopback = loopback

    @asynccontextmanager
    async def call(
        self, request: OutgoingRequest, *, private_hosts: Collection[str] = ()
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """One call; the body is still to be read.

        Raises ``ProviderUnavailable``, ``AddressRefused`` and ``InvalidInput``. No message holds
        text of the exception underneath: some of them quote the URL or a header, and with it the
        credential.
        """
        session = self._session_for(request.url, private_hosts)
        headers = {**request.headers, "accept-encoding": "identity"}
        try:
            async with session.request(
                request.method,
                URL(request.url, encoded=True),
                headers=headers,
                # As a file: a large body goes out in pieces, so that the loop goes on.
                data=None if request.body is None else io.BytesIO(request.body),
                allow_redirects=False,
            ) as answer:
                yield answer
        except aiohttp.ClientConnectorError as error:
            raise ProviderUnavailable(
                f"The provider cannot be reached ({type(error.os_error).__name__}).", sent=False
            ) from None
        except aiohttp.InvalidURL:  # a host that is spelled like an address and is none, for one
            raise ProviderUnavailable(
                "The provider's address cannot be called.", sent=False
            ) from None
        except aiohttp.ConnectionTimeoutError:
            raise ProviderUnavailable(
                "The provider cannot be reached in time.", sent=False
            ) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ProviderUnavailable(
                f"The provider did not answer as it should ({type(error).__name__})."
            ) from None
        except ValueError:
            raise InvalidInput("The request holds characters that HTTP does not carry.") from None

    def _session_for(self, url: str, private_hosts: Collection[str]) -> aiohttp.ClientSession:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            if host not in _LOOPBACK_NAMES:
                raise AddressRefused(host)
            return self._loopback
        session = self._inside if host in private_hosts else self._public
        # The connector does not resolve a literal address, so it is checked here.
        try:
            usable = may_connect(host, host=host, private_hosts=private_hosts)
        except ValueError:
            return session
        if not usable:
            raise AddressRefused(host)
        return session


def end_to_end(answer: aiohttp.ClientResponse) -> Iterator[tuple[str, str]]:
    """The answer's headers that are the agent's to see, in order."""
    named = ",".join(answer.headers.getall("Connection", ())).split(",")
    dropped = _DROPPED | {name.strip().lower() for name in named}
    for name, value in answer.headers.items():
        if name.lower() not in dropped and not name.lower().startswith("aura-"):
            yield name, value
