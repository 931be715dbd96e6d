"""How the control plane connects to providers: a name is resolved once, what came is judged, and
the connection goes to just that address.

TLS and the Host header keep the name, because only the network backend sees the address. A check
before the request would be followed by a second look-up, which whoever runs the name's DNS may
answer otherwise.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from time import monotonic

import httpcore
import httpx

from aura_core.addresses import may_connect
from aura_core.errors import AddressRefused
from aura_core.manifest import is_loopback

__all__ = ["CheckedTransport", "Resolve", "resolve"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) -> its addresses, best first. Raises ``OSError``."""

SocketOptions = Iterable[
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
]


async def resolve(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedTransport(httpx.AsyncBaseTransport):
    """httpx's own transport, over connections that were checked.

    There are two, which share no connection: a URL that says plain http and loopback itself is the
    operator's (a twin, or a provider on this machine; manifests name one by a setting only), and
    goes nowhere else. Everything else is judged by its addresses.
    """

    def __init__(
        self,
        *,
        limits: httpx.Limits,
        private_hosts: Iterable[str] = (),
        resolver: Resolve = resolve,
    ) -> None:
        context = httpx.create_ssl_context(trust_env=False)
        names = frozenset(private_hosts)
        self._checked = _transport(limits, context, _Judged(private_hosts=names, resolver=resolver))
        self._loopback = _transport(limits, context, _Loopback(resolver=resolver))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises :class:`AddressRefused` beside what httpx raises."""
        local = request.url.scheme == "http" and is_loopback(request.url.host)
        transport = self._loopback if local else self._checked
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        await self._checked.aclose()
        await self._loopback.aclose()


def _transport(
    limits: httpx.Limits, context: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend
) -> httpx.AsyncHTTPTransport:
    """The pool is httpx's private attribute: its transport has no parameter for what connects, and
    everything else of it (mapping of errors, closing) is wanted as it is."""
    transport = httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits)
    transport._pool = httpcore.AsyncConnectionPool(
        ssl_context=context,
        max_connections=limits.max_connections,
        max_keepalive_connections=limits.max_keepalive_connections,
        keepalive_expiry=limits.keepalive_expiry,
        network_backend=backend,
    )
    return transport


class _Checked(httpcore.AsyncNetworkBackend, ABC):
    """Resolves a name once, and connects to one of the addresses that pass."""

    def __init__(self, *, resolver: Resolve) -> None:
        self._resolve = resolver
        self._inner = httpcore.AnyIOBackend()

    @abstractmethod
    def _usable(self, host: str, address: str) -> bool:
        """Whether a connection to the host may go to this address of it."""

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raises :class:`AddressRefused` when no address of the host may be connected to."""
        ends = monotonic() + (60.0 if timeout is None else timeout)
        last: Exception | None = None
        addresses = await self._addresses(host, port, ends)
        for after, address in zip(reversed(range(len(addresses))), addresses, strict=True):
            left = max(0.001, ends - monotonic())
            # One that answers nothing at all (IPv6 that leads nowhere) leaves time for the others.
            patience = left / 2 if after else left
            try:
                return await self._inner.connect_tcp(
                    address, port, patience, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                last = error
        raise last or httpcore.ConnectError("no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        socket_options: SocketOptions | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise httpcore.ConnectError("providers are not called over Unix sockets")

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)

    async def _addresses(self, host: str, port: int, ends: float) -> Sequence[str]:
        bare = host.strip("[]")
        found = [bare] if _is_address(bare) else await self._looked_up(bare, port, ends)
        name = bare.lower().removesuffix(".")
        usable = [address for address in found if self._usable(name, address)]
        if not usable:
            raise AddressRefused(host)
        return usable

    async def _looked_up(self, host: str, port: int, ends: float) -> Sequence[str]:
        try:
            async with asyncio.timeout(max(0.001, ends - monotonic())):
                found = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout("the name was not resolved in time") from None
        except (OSError, UnicodeError):
            raise httpcore.ConnectError("the name cannot be resolved") from None
        if not found:
            raise httpcore.ConnectError("the name has no address")
        return found


class _Judged(_Checked):
    def __init__(self, *, private_hosts: frozenset[str], resolver: Resolve) -> None:
        super().__init__(resolver=resolver)
        self._private_hosts = private_hosts

    def _usable(self, host: str, address: str) -> bool:
        return may_connect(address, host=host, private_hosts=self._private_hosts)


class _Loopback(_Checked):
    def _usable(self, host: str, address: str) -> bool:
        return ipaddress.ip_address(address).is_loopback


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
