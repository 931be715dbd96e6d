"""The daemon as a real process: started, stopped, killed, and started again."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import aiohttp
from aiohttp import web

from aura_core.wire import parse_push
from aura_vmd.files import TEMPORARY
from tests.vmd.control_plane import Control, now_ms, until
from tests.vmd.harness import TOKEN, Machine, Provider, ask, binding, credential, policy, skill
from tests.vmd.process import machine, started


async def test_a_daemons_life(root: Path, control: Control, provider: Provider) -> None:
    vm = machine(root, control)
    async with started(root) as daemon:
        await until(lambda: control.machine, changed=control.changed)
        control.want("policy", policy("email:read"), revision=now_ms())
        await until(lambda: "policy" in control.acked, changed=control.changed)
        await vm.deliver("c-1", credential(binding(provider.url)))
        await vm.deliver("skill:mail-skill", skill()[0])
        status, _, body = await ask(vm, "/v1/mailer/mail/1")
        assert (status, json.loads(body)) == (200, {"messages": [1, 2, 3]})
        code, log = await daemon.end(signal.SIGTERM)
        assert code == 0, log
        assert await daemon.said.get() == "STOPPING=1"
        assert TOKEN not in log
    assert not vm.settings.layout.broker_socket.exists()
    assert not vm.settings.layout.listen_file.exists()
    assert (vm.settings.layout.skills / "mail-skill/SKILL.md").stat().st_mode & 0o777 == 0o644

    # Restarted without its control plane, it serves what it has.
    control.down = True
    async with started(root) as daemon:
        assert (await ask(vm, "/v1/mailer/mail/1"))[0] == 200
        assert control.joins == 1
        code, log = await daemon.end(signal.SIGTERM)
        assert code == 0, log


async def test_a_call_under_way_is_finished_before_the_end(
    root: Path, control: Control, provider: Provider
) -> None:
    vm = machine(root, control)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.StreamResponse:
        reached.set()
        await go_on.wait()
        return web.Response(text="finished")

    async with started(root) as daemon:
        await until(lambda: control.heartbeats, changed=control.changed)
        await vm.deliver("c-1", credential(binding(provider.url)))
        await vm.deliver("policy", policy("email:read"))
        provider.answer = slow
        call = asyncio.create_task(ask(vm, "/v1/mailer/mail/1"))
        await reached.wait()
        daemon.process.send_signal(signal.SIGTERM)
        while await daemon.said.get() != "STOPPING=1":
            pass
        go_on.set()
        assert (await call)[2] == b"finished"
        assert (await daemon.wait())[0] == 0


class Sender:
    """Pushes one newer policy after the other until the daemon is gone."""

    def __init__(self, vm: Machine) -> None:
        self.vm = vm
        self.acknowledged = 0
        self.poured = asyncio.Event()

    async def pour(self) -> None:
        while True:
            revision = max(now_ms(), self.acknowledged + 1)
            message = self.vm.control.seal("policy", policy("email:read"), revision=revision)
            try:
                status, _ = await self.vm.push("policy", message)
            except aiohttp.ClientError:  # refused, reset, or closed without an answer
                return
            assert status == 200
            self.acknowledged = revision
            self.poured.set()


async def test_killed_at_any_moment_nothing_is_torn(root: Path, control: Control) -> None:
    vm = machine(root, control)
    kept = vm.settings.layout.state / "sealed"
    sender = Sender(vm)
    for _ in range(3):
        control.heartbeats.clear()
        sender.poured.clear()
        async with started(root) as daemon:
            await until(lambda: control.heartbeats, changed=control.changed)
            pouring = asyncio.create_task(sender.pour())
            await sender.poured.wait()
            code, _ = await daemon.end(signal.SIGKILL)
            await pouring
            assert code == -signal.SIGKILL
        # Whatever was acknowledged is there, or something newer, and it is whole.
        held = parse_push((kept / "policy.json").read_bytes())
        assert held.header.revision >= sender.acknowledged
    control.heartbeats.clear()
    async with started(root) as daemon:
        await until(lambda: control.heartbeats, changed=control.changed)
        report = control.heartbeats[0]
        assert report["revisions"]["policy"] >= sender.acknowledged
        assert report["health"]["store"]["damaged"] == []
        assert not list(kept.glob(f"{TEMPORARY}*"))
        assert (await daemon.end(signal.SIGTERM))[0] == 0


async def test_a_second_daemon_does_not_start(root: Path, control: Control) -> None:
    machine(root, control)
    async with started(root) as first:
        machine(root, control)
        async with started(root) as second:
            code, log = await second.wait()
            assert code == 78
            assert "Another daemon" in log
        assert (await first.end(signal.SIGINT))[0] == 0


async def test_wrong_settings_end_it_with_a_sentence(root: Path, control: Control) -> None:
    machine(root, control)
    (root / "etc/aura/vmd.json").write_text("{}")
    async with started(root) as daemon:
        code, log = await daemon.wait()
    assert code == 78
    assert "vmd.json: instance_id" in log
    assert "Traceback" not in log
