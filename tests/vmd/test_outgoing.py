"""Which addresses are reached, and what the action log and the notifications look like."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from pathlib import Path
from uuid import uuid4

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from aura_core.addresses import is_public
from aura_core.errors import AddressRefused, PermissionDenied, ProviderUnavailable
from aura_core.placement import OutgoingRequest
from aura_vmd.actions import ActionLog
from aura_vmd.notify import Notifier
from aura_vmd.outgoing import CheckedResolver, provider_client


class FakeResolver(AbstractResolver):
    """A name server: nobody's real one can be made to answer what a hostile one would."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("::", False),
        ("fe80::a9fe:a9fe", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:169.254.169.254", False),
        ("::ffff:127.0.0.1", False),
        ("2002:a9fe:a9fe::1", False),
        ("64:ff9b:1::a9fe:a9fe", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("::ffff:93.184.216.34", False),
        ("2002:5db8:d822::1", False),
        ("fec0::1", False),
        ("64:ff9b::5db8:d822", True),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_of_several_addresses_only_public_ones_are_used() -> None:
    resolver = CheckedResolver(FakeResolver("10.0.0.1", "93.184.216.34", "::1"))
    found = await resolver.resolve("api.example.com", 443)
    assert [result["host"] for result in found] == ["93.184.216.34"]


async def test_a_name_that_points_into_the_machines_network_is_not_called() -> None:
    request = OutgoingRequest(method="GET", url="https://api.example.com/x", headers={}, body=None)
    async with provider_client(resolver=FakeResolver("169.254.169.254")) as provider:
        with pytest.raises(PermissionDenied) as raised:
            await provider.call(request).__aenter__()
    assert raised.value.rule == "address:private"


@pytest.mark.parametrize(
    ("host", "address", "private_hosts", "reached"),
    [
        ("inside.test", "127.0.0.1", ["inside.test"], True),
        ("inside.test", "127.0.0.1", [], False),
        ("inside.test", "127.0.0.1", ["other.test"], False),
        ("inside.test", "169.254.169.254", ["inside.test"], False),
        ("127.0.0.1", "", [], False),
        ("127.0.0.1", "", ["127.0.0.1"], True),
        ("[::ffff:127.0.0.1]", "", ["::ffff:127.0.0.1"], False),
        ("2130706433", "127.0.0.1", [], False),
        ("localhost.", "127.0.0.1", [], False),
    ],
)
async def test_only_the_operators_names_lead_inside(
    host: str, address: str, private_hosts: list[str], reached: bool
) -> None:
    """Through real sockets: a connection that is let through arrives, another never begins."""
    connections = asyncio.Queue[str]()

    async def arrive(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.put_nowait("arrived")
        writer.close()

    server = await asyncio.start_server(arrive, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    request = OutgoingRequest(method="GET", url=f"https://{host}:{port}/x", headers={}, body=None)
    async with server, provider_client(resolver=FakeResolver(address)) as provider:
        with pytest.raises(ProviderUnavailable) as raised:
            await provider.call(request, private_hosts=private_hosts).__aenter__()
    assert not raised.value.sent  # a handshake that fails sends no request either
    assert reached or host == "2130706433" or isinstance(raised.value, AddressRefused)
    assert connections.qsize() == reached


async def test_plain_http_is_for_loopback() -> None:
    request = OutgoingRequest(method="GET", url="http://93.184.216.34/x", headers={}, body=None)
    async with provider_client() as provider:
        with pytest.raises(PermissionDenied):
            await provider.call(request).__aenter__()


async def test_the_action_log_is_rotated_by_size(tmp_path: Path) -> None:
    log = ActionLog(path=tmp_path / "a", max_bytes=200, keep=3)
    for number in range(60):
        await log.record({"n": number, "text": "a line\nwith a break"})
    files = sorted(os.listdir(tmp_path))
    assert files == ["a", "a.1", "a.2", "a.3"]
    texts = [(tmp_path / name).read_text() for name in ("a.3", "a.2", "a.1", "a")]
    assert max(map(len, texts)) <= 200
    numbers = [json.loads(line)["n"] for text in texts for line in text.splitlines()]
    assert numbers == list(range(numbers[0], 60))


async def test_lines_written_at_once_stay_lines(tmp_path: Path) -> None:
    log = ActionLog(path=tmp_path / "a")
    await asyncio.gather(*(log.record({"n": n}) for n in range(50)))
    lines = (tmp_path / "a").read_text().splitlines()
    assert sorted(json.loads(line)["n"] for line in lines) == list(range(50))


def test_a_link_is_not_appended_to(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        asyncio.run(ActionLog(path=tmp_path / "a").record({}))
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("address", ["@aura-test", "path"])
def test_systemd_is_told(tmp_path: Path, address: str) -> None:
    # Names without a file are the whole machine's: another run of the tests has its own.
    given = f"{address}-{uuid4()}" if address.startswith("@") else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind("\0" + given[1:] if given.startswith("@") else given)
        channel.settimeout(20)
        Notifier({"NOTIFY_SOCKET": given}).say("READY=1")
        assert channel.recv(100) == b"READY=1"


def test_where_nobody_listens_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).say("READY=1")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).say("READY=1")


async def test_lines_that_wait_for_one_another_share_an_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended: list[int] = []
    begun, go_on = threading.Event(), threading.Event()
    append = ActionLog._append

    def counted(self: ActionLog, lines: bytes) -> None:
        appended.append(lines.count(b"\n"))
        begun.set()
        go_on.wait(10)
        append(self, lines)

    monkeypatch.setattr(ActionLog, "_append", counted)
    log = ActionLog(path=tmp_path / "a")
    first = asyncio.create_task(log.record({"n": 0}))
    await asyncio.to_thread(begun.wait, 10)
    others = [asyncio.create_task(log.record({"n": n})) for n in range(1, 16)]
    await asyncio.sleep(0)
    # The agent of one call hangs up: its line and everybody else's are written all the same.
    others[0].cancel()
    go_on.set()
    await asyncio.gather(first, *others[1:])
    assert appended == [1, 15]
    lines = (tmp_path / "a").read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == [*range(16)]


async def test_every_caller_of_a_shared_append_hears_of_its_failure(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    log = ActionLog(path=tmp_path / "a")
    outcomes = await asyncio.gather(*(log.record({}) for _ in range(5)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [IsADirectoryError] * 5
