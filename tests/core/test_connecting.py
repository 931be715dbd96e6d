"""The control plane's calls to providers reach public addresses only: through real sockets, with
a resolver that answers what a hostile name server would."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx
import pytest

from aura_core.addresses import is_public, may_connect
from aura_core.api import CheckedTransport, fetch, http_client
from aura_core.errors import AddressRefused, PermissionDenied, ProviderError, ProviderUnavailable

LIMITS = httpx.Limits(max_connections=4)


@dataclass
class Names:
    """A name server: nobody's real one can be made to answer what a hostile one would."""

    addresses: tuple[str, ...] = ()
    asked: list[str] = field(default_factory=list)
    error: Exception | None = None

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if self.error is not None:
            raise self.error
        return self.addresses


@dataclass
class Server:
    """A server on loopback that counts its connections and keeps what it was asked."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(self.answer)
            await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server


def client(names: Names, **options: Any) -> httpx.AsyncClient:
    return http_client(transport=CheckedTransport(limits=LIMITS, resolver=names, **options))


PRIVATE = [
    "127.0.0.1", "127.8.9.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "240.0.0.1", "192.0.2.1",
    "198.18.0.1", "192.88.99.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fec0::1", "fd00:ec2::254",
    "ff02::1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::127.0.0.1", "::ffff:0:127.0.0.1",
    "2002:7f00:1::", "2002:5db8:d822::1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::5db8:d822", "2001:db8::1", "2001::1", "100::1", "4000::1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
async def test_a_name_at_an_address_that_is_not_public(server: Server, address: str) -> None:
    assert not is_public(address)
    async with client(Names((address,))) as http:
        for scheme in ("http", "https"):
            with pytest.raises(PermissionDenied) as caught:
                await fetch(http, "GET", f"{scheme}://api.example.com:{server.port}/")
            assert caught.value.rule == "address:private"
    assert server.connections == 0


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_the_internet_at_large(address: str) -> None:
    assert is_public(address)
    assert may_connect(address, host="x.example")


async def test_the_address_that_was_checked_is_the_one_connected_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look-up for one connection, and the host's name in the request."""
    names = Names(("127.0.0.1",))
    async with client(names, private_hosts=["inside.example"]) as http:
        answer = await fetch(http, "GET", f"http://inside.example:{server.port}/x")
    assert answer.body == b"ok"
    assert names.asked == ["inside.example"]
    assert f"Host: inside.example:{server.port}".encode() in server.requests[0]


async def test_rebinding_between_two_calls_is_seen(server: Server) -> None:
    names = Names(("127.0.0.1",))
    async with client(names, private_hosts=["inside.example"]) as http:
        await fetch(http, "GET", f"http://inside.example:{server.port}/")
        names.addresses = ("169.254.169.254",)
        with pytest.raises(AddressRefused):
            await fetch(http, "GET", f"http://inside.example:{server.port}/")
    assert server.connections == 1


async def test_of_several_addresses_those_that_are_refused_are_passed_over(server: Server) -> None:
    names = Names(("169.254.169.254", "127.0.0.1"))
    async with client(names, private_hosts=["inside.example"]) as http:
        await fetch(http, "GET", f"http://inside.example:{server.port}/")
    assert server.connections == 1


async def test_an_address_that_answers_nothing_leaves_time_for_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of IPv6 does where only a part of the way knows it."""
    given: list[float] = []
    connect = httpcore.AnyIOBackend.connect_tcp

    async def connecting(
        backend: httpcore.AnyIOBackend, host: str, port: int, seconds: float, *more: Any
    ) -> httpcore.AsyncNetworkStream:
        given.append(seconds)
        if host == "127.0.0.2":
            raise httpcore.ConnectTimeout
        return await connect(backend, host, port, seconds, *more)

    monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", connecting)
    names = Names(("127.0.0.2", "127.0.0.1"))
    async with client(names, private_hosts=["inside.example"]) as http:
        await fetch(http, "GET", f"http://inside.example:{server.port}/")
    first, second = given
    assert first <= 5 < second <= 10
    assert server.connections == 1


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "fe80::1", "0.0.0.0", "224.0.0.1",
     "::ffff:10.0.0.1"],
)  # fmt: skip
def test_an_operator_cannot_open_metadata_services(address: str) -> None:
    assert not may_connect(address, host="inside.example", private_hosts=["inside.example"])


@pytest.mark.parametrize("address", ["10.0.0.5", "192.168.1.5", "100.64.0.5", "fd12::5"])
def test_an_operator_opens_a_name_and_no_other(address: str) -> None:
    assert may_connect(address, host="inside.example", private_hosts=["inside.example"])
    assert not may_connect(address, host="other.example", private_hosts=["inside.example"])


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_url_that_says_loopback_itself_is_the_operators(server: Server, host: str) -> None:
    async with client(Names(("127.0.0.1",))) as http:
        assert (await fetch(http, "GET", f"http://{host}:{server.port}/")).status == 200


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "169.254.169.254", "0.0.0.0"],
)
async def test_a_private_address_itself_is_refused(server: Server, host: str) -> None:
    async with client(Names()) as http:
        with pytest.raises(AddressRefused):
            await fetch(http, "GET", f"http://{host}:{server.port}/")
    assert server.connections == 0


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost."])
async def test_odd_spellings_of_loopback_are_names_like_others(server: Server, host: str) -> None:
    """Whatever the system's resolver makes of them is judged: here with the real one."""
    async with http_client() as http:
        with pytest.raises((AddressRefused, ProviderUnavailable)):
            await fetch(http, "GET", f"http://{host}:{server.port}/")
    assert server.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_loopback_by_https_is_an_address_like_others(server: Server, host: str) -> None:
    async with client(Names(("127.0.0.1",))) as http:
        with pytest.raises(AddressRefused):
            await fetch(http, "GET", f"https://{host}:{server.port}/")
    assert server.connections == 0


async def test_for_a_refresh_nothing_was_sent_and_nothing_is_lost() -> None:
    """A name server's mistake is a provider that is away, not a lost token."""
    async with client(Names(("10.0.0.1",))) as http:
        with pytest.raises(ProviderError) as caught:
            await fetch(http, "POST", "https://api.example.com/token")
    assert caught.value.effect == "none"


async def test_localhost_that_leads_elsewhere_is_refused() -> None:
    async with client(Names(("93.184.216.34",))) as http:
        with pytest.raises(AddressRefused):
            await fetch(http, "GET", "http://localhost:1/")


@pytest.mark.parametrize("error", [OSError("gone"), UnicodeError("bad label")])
async def test_a_name_that_does_not_resolve(error: Exception) -> None:
    async with client(Names(error=error)) as http:
        with pytest.raises(ProviderUnavailable) as caught:
            await fetch(http, "GET", "https://api.example.com/")
    assert not caught.value.sent
    assert not isinstance(caught.value, PermissionDenied)


async def test_a_redirect_is_not_followed(server: Server) -> None:
    server.answer = (
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n"
        b"Connection: close\r\n\r\n"
    )
    async with client(Names(("127.0.0.1",))) as http:
        answer = await fetch(http, "GET", f"http://127.0.0.1:{server.port}/")
    assert answer.status == 302
    assert server.connections == 1


async def test_tls_is_checked_against_the_name() -> None:
    """The handshake names the host that was asked for, not the address that was connected to."""
    seen: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: seen.append(name)
    listening = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=context)
    port = listening.sockets[0].getsockname()[1]
    async with (
        listening,
        client(Names(("127.0.0.1",)), private_hosts=["inside.example"]) as http,
    ):
        with pytest.raises(ProviderUnavailable):
            await fetch(http, "GET", f"https://inside.example:{port}/")
    assert seen == ["inside.example"]
