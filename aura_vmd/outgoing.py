"""Calls to providers: no redirect followed, no proxy used, no private address reached."""

from __future__ import annotations

import io
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from aura_core import __version__
from aura_core.errors import InvalidInput, PermissionDenied, ProviderUnavailable
from aura_core.placement import OutgoingRequest

__all__ = ["GlobalResolver", "ProviderClient", "end_to_end", "is_public", "provider_client"]

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
_NAT64_LOCAL = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215

_DROPPED = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
     "te", "trailer", "trailers", "transfer-encoding", "upgrade", "content-length",
     "set-cookie", "set-cookie2", "alt-svc", "date", "server"}
)  # fmt: skip
"""Hop-by-hop headers (RFC 9110 §7.6.1), what is set anew, and cookies: they are a session of the
daemon's at the provider, and as good as the credential."""


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large; IPv4 inside IPv6 counts as IPv4."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    inner: ipaddress.IPv4Address | None = None
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64_LOCAL:
            return False
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast and (inner is None or inner.is_global)


class GlobalResolver(AbstractResolver):
    """Resolves names to public addresses only.

    A manifest names hosts, and whoever runs their DNS says where they lie: the metadata service of
    a cloud, the control plane's network, the machine itself. Checking what was resolved, at the
    moment of connecting, leaves no second look-up that could answer otherwise (DNS rebinding).
    """

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        public = [result for result in found if is_public(result["host"])]
        if not public:
            raise _private_address()
        return public

    async def close(self) -> None:
        await self._inner.close()


@asynccontextmanager
async def provider_client(
    *,
    total_seconds: float = 120.0,
    read_seconds: float = 60.0,
    resolver: AbstractResolver | None = None,
) -> AsyncIterator[ProviderClient]:
    """A client with connections of its own.

    Plain http is for loopback: a provider on the same machine, as the operator has chosen. It has
    a session of its own, because the other one reaches public addresses only.
    """
    timeout = aiohttp.ClientTimeout(total=total_seconds, sock_connect=10.0, sock_read=read_seconds)
    checked = GlobalResolver(resolver or aiohttp.ThreadedResolver())
    async with (
        _session(timeout, checked) as public,
        _session(timeout, aiohttp.ThreadedResolver()) as loopback,
    ):
        yield ProviderClient(public=public, loopback=loopback)


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

    def __init__(self, *, public: aiohttp.ClientSession, loopback: aiohttp.ClientSession) -> None:
        self._public = public
        self._loopback = loopback

    @asynccontextmanager
    async def call(self, request: OutgoingRequest) -> AsyncIterator[aiohttp.ClientResponse]:
        """One call; the body is still to be read.

        Raises ``ProviderUnavailable``, ``PermissionDenied`` (rule ``address``) and
        ``InvalidInput``. No message holds text of the exception underneath: some of them quote the
        URL or a header, and with it the credential.
        """
        session = self._session_for(request.url)
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
                f"The provider cannot be reached ({type(error.os_error).__name__})."
            ) from None
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ProviderUnavailable(
                f"The provider did not answer as it should ({type(error).__name__})."
            ) from None
        except ValueError:
            raise InvalidInput("The request holds characters that HTTP does not carry.") from None

    def _session_for(self, url: str) -> aiohttp.ClientSession:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme == "http":
            if host not in _LOOPBACK_NAMES:
                raise _private_address()
            return self._loopback
        # The connector does not resolve a literal address, so it is checked here.
        try:
            public = is_public(host)
        except ValueError:
            return self._public
        if not public:
            raise _private_address()
        return self._public


def end_to_end(answer: aiohttp.ClientResponse) -> Iterator[tuple[str, str]]:
    """The answer's headers that are the agent's to see, in order."""
    named = ",".join(answer.headers.getall("Connection", ())).split(",")
    dropped = _DROPPED | {name.strip().lower() for name in named}
    for name, value in answer.headers.items():
        if name.lower() not in dropped and not name.lower().startswith("aura-"):
            yield name, value


def _private_address() -> PermissionDenied:
    return PermissionDenied(
        "The provider's host is at an address that is not public, so it is not called.",
        rule="address",
    )
