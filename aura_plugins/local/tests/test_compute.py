"""Local machines as a whole: made, watched, found again, ended."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest
from aura_plugin_local import compute as compute_module
from aura_plugin_local.compute import LocalCompute
from aura_plugin_local.record import MachineRecord

from aura_core.compute import MachineRequest
from aura_core.errors import ComputeError
from aura_plugins.local.tests.machines import (
    AGENT,
    LABELS,
    agent_unit,
    alive,
    daemon_pid,
    daemon_unit,
    environment,
    eventually,
    file,
    found,
    request,
    separate,
    supervisor_pid,
    user_data,
)


async def test_from_creation_to_destruction(compute: LocalCompute, short_root: Path) -> None:
    made = await compute.create(request())
    directory = short_root / "m/one"
    assert (made.name, made.external_id) == ("one", "local:one")
    agent = (await eventually(lambda: found(directory)))["pid"]
    pids = [supervisor_pid(directory), daemon_pid(directory), agent]
    running = await compute.find("one")
    assert running is not None
    assert (running.state, running.push_url) == ("running", "http://127.0.0.1:9")
    assert [machine.name for machine in await compute.machines()] == ["one"]

    await compute.destroy("one")
    assert not directory.exists()
    assert not [pid for pid in pids if alive(pid)]
    assert await compute.find("one") is None
    assert await compute.machines() == []
    await compute.destroy("one")


async def test_a_killed_service_is_started_again(compute: LocalCompute, short_root: Path) -> None:
    await compute.create(request())
    directory = short_root / "m/one"
    agent = (await eventually(lambda: found(directory)))["pid"]
    daemon = daemon_pid(directory)
    os.kill(agent, signal.SIGKILL)
    os.kill(daemon, signal.SIGKILL)
    await eventually(lambda: found(directory)["pid"] != agent)
    await eventually(lambda: daemon_pid(directory) != daemon)
    assert not alive(agent)


async def test_the_agent_waits_for_enrolment(compute: LocalCompute, short_root: Path) -> None:
    waiting = "import time\nwhile True: time.sleep(60)\n"
    await compute.create(request(daemon=waiting))
    directory = short_root / "m/one"
    await asyncio.sleep(0.5)
    assert not (directory / "var/lib/agent/found.json").exists()
    (directory / "run/aura/enrolled").touch()
    await eventually(lambda: found(directory))


async def test_a_killed_supervisor_takes_its_services_along(
    compute: LocalCompute, short_root: Path
) -> None:
    await compute.create(request())
    directory = short_root / "m/one"
    agent = (await eventually(lambda: found(directory)))["pid"]
    daemon = daemon_pid(directory)
    os.kill(supervisor_pid(directory), signal.SIGKILL)
    await eventually(lambda: not alive(agent) and not alive(daemon))
    off = await compute.find("one")
    assert off is not None
    assert (off.state, off.push_url) == ("off", None)

    (directory / "var/lib/agent/found.json").unlink()
    adopted = await compute.create(request())
    assert adopted.created_at == off.created_at
    await eventually(lambda: found(directory))


async def test_creating_again_adopts(compute: LocalCompute, short_root: Path) -> None:
    first, second = await asyncio.gather(compute.create(request()), compute.create(request()))
    assert first.external_id == second.external_id
    supervisor = supervisor_pid(short_root / "m/one")
    await LocalCompute(short_root / "m").create(request())
    assert supervisor_pid(short_root / "m/one") == supervisor


@pytest.mark.parametrize("step", ["apply", "_start"])
async def test_a_crash_after_the_record_is_adopted(
    compute: LocalCompute, short_root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compute_module, step, crash)
        with pytest.raises(KeyboardInterrupt):
            compute._create(request())
    lost = await compute.find("one")
    assert lost is not None
    assert lost.state == "off"
    made = await compute.create(request())
    assert made.created_at == lost.created_at
    await eventually(lambda: found(short_root / "m/one"))


async def test_a_crash_after_the_record_can_be_destroyed(
    compute: LocalCompute, short_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute_module, "_start", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        compute._create(request())
    await compute.destroy("one")
    assert not (short_root / "m/one").exists()


async def test_a_half_removed_machine_is_made_anew(compute: LocalCompute, short_root: Path) -> None:
    left = short_root / "m/one/var/lib/agent"
    left.mkdir(parents=True)
    (left / "found.json").write_text('{"pid": "of another life"}')
    assert await compute.find("one") is None
    assert await compute.machines() == []
    await compute.create(request())
    await eventually(lambda: found(short_root / "m/one")["pid"] != "of another life")


async def test_another_owner_is_refused(compute: LocalCompute) -> None:
    await compute.create(request())
    other = MachineRequest(name="one", labels={"aura": "x"}, user_data=request().user_data)
    with pytest.raises(ComputeError, match="another machine"):
        await compute.create(other)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../a", ".locks", "A", "a" * 64, "a\n", "é"])
async def test_a_name_that_is_no_directorys_is_refused(compute: LocalCompute, name: str) -> None:
    for attempt in (compute.create(request(name)), compute.find(name), compute.destroy(name)):
        with pytest.raises(ComputeError):
            await attempt


async def test_too_long_a_root_is_refused_before_anything_is_made(short_root: Path) -> None:
    root = short_root / ("x" * 100)
    with pytest.raises(ComputeError, match="107") as caught:
        await LocalCompute(root).create(request())
    assert caught.value.retryable is False
    assert not root.exists()


async def test_a_missing_program_is_named(compute: LocalCompute) -> None:
    missing = daemon_unit().replace("/opt/aura/bin/python", "/opt/aura/bin/aura-nowhere")
    with pytest.raises(ComputeError, match="aura-nowhere"):
        await compute.create(request(daemon_unit=missing))


async def test_no_secret_of_the_environment_reaches_a_machine(
    compute: LocalCompute, short_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AURA_MASTER_KEYS", "AURA_GOOGLE_CLIENT_SECRET", "DATABASE_URL", "PYTHONPATH"):
        monkeypatch.setenv(name, "canary")
    await compute.create(request())
    directory = short_root / "m/one"
    agent = await eventually(lambda: found(directory))
    for pid in (supervisor_pid(directory), daemon_pid(directory)):
        assert "canary" not in environment(pid).values()
    assert agent["env"].keys() - {"LC_CTYPE"} <= {
        "PATH", "HOME", "LANG", "LC_ALL", "TZ", "AURA_ROOT", "AURA_PYTHON", "AURA_BROKER_SOCKET",
    }  # fmt: skip
    assert "canary" not in agent["env"].values()
    log = b"".join(path.read_bytes() for path in (directory / "var/log").iterdir())
    assert b"join-token-of" not in log


async def test_what_stands_between_agent_and_daemon(
    compute: LocalCompute, short_root: Path
) -> None:
    """As root the kernel; otherwise nothing does, and the record says so."""
    skill = file("/var/lib/agent/skills/x/SKILL.md", "a skill")
    await compute.create(request("one", skill))
    directory = short_root / "m/one"
    agent = await eventually(lambda: found(directory))
    record = MachineRecord.read(directory / "machine.json")
    assert record is not None
    assert record.accounts.separate == separate()
    assert agent["uid"] == record.accounts.agent.uid
    assert agent["skill"] == "a skill"
    if separate():
        assert record.isolation.startswith("separate users")
        assert agent["uid"] not in (0, record.accounts.daemon.uid)
        assert (agent["secret"], agent["token"], agent["settings"]) == ("PermissionError",) * 3
        assert agent["groups"] == []
    else:
        assert record.isolation.startswith("one user")
        assert agent["secret"] == "the daemon's secret"
    token = (directory / "etc/aura/join-token").stat()
    assert stat.S_IMODE(token.st_mode) == 0o600
    assert token.st_uid == record.accounts.daemon.uid
    assert stat.S_IMODE((directory / "var/lib/aura").stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "var/lib/agent").stat().st_mode) == 0o1770


async def test_below_a_closed_directory_a_machine_sees_nothing_else(short_root: Path) -> None:
    (short_root / "closed.txt").write_text("the control plane's")
    os.chmod(short_root, 0o700)
    compute = LocalCompute(short_root / "m")
    try:
        await compute.create(request())
        agent = await eventually(lambda: found(short_root / "m/one"))
        expected = "FileNotFoundError" if separate() else "the control plane's"
        assert agent["beside"] == expected
    finally:
        await compute.destroy("one")


async def test_a_strict_umask_closes_nothing_that_a_machine_needs(
    compute: LocalCompute, short_root: Path
) -> None:
    before = os.umask(0o077)
    try:
        await compute.create(request())
        await eventually(lambda: found(short_root / "m/one"))
    finally:
        os.umask(before)


ONCE = AGENT.replace("while True: time.sleep(60)", "raise SystemExit(78)")


async def test_a_service_that_gives_up_for_good_stays_down(
    compute: LocalCompute, short_root: Path
) -> None:
    await compute.create(request(agent=ONCE, agent_unit=agent_unit(RestartPreventExitStatus="78")))
    directory = short_root / "m/one"
    agent = await eventually(lambda: found(directory))
    log = directory / "var/log/machine.log"
    await eventually(lambda: "ended with 78 and stays so" in log.read_text())
    assert found(directory)["pid"] == agent["pid"]


async def test_units_of_roots_are_never_run(compute: LocalCompute, short_root: Path) -> None:
    planted = file(
        "/etc/systemd/system/aura-forget.service",
        "[Service]\nExecStart=/bin/touch /var/lib/agent/ran\n[Install]\nWantedBy=multi-user.target",
    )
    await compute.create(request("one", planted))
    directory = short_root / "m/one"
    await eventually(lambda: found(directory))
    assert not (directory / "var/lib/agent/ran").exists()
    assert "aura-forget" not in (directory / "var/log/machine.log").read_text()


async def test_an_address_elsewhere_is_not_believed(
    compute: LocalCompute, short_root: Path
) -> None:
    await compute.create(request())
    listen = short_root / "m/one/run/aura/listen.json"
    await eventually(listen.exists)
    for lie in ('{"host": "192.0.2.1", "port": 80}', '{"host": "127.0.0.1", "port": "x"}', "["):
        listen.write_text(lie)
        machine = await compute.find("one")
        assert machine is not None
        assert machine.push_url is None


async def test_a_damaged_record_is_said_and_can_be_destroyed(
    compute: LocalCompute, short_root: Path
) -> None:
    await compute.create(request())
    directory = short_root / "m/one"
    supervisor = supervisor_pid(directory)
    (directory / "machine.json").write_text("{")
    with pytest.raises(ComputeError, match="damaged"):
        await compute.create(request())
    assert await compute.machines() == []
    await compute.destroy("one")
    assert not alive(supervisor)


async def test_machines_have_users_of_their_own(compute: LocalCompute, short_root: Path) -> None:
    await asyncio.gather(*(compute.create(request(name)) for name in ("one", "two", "three")))
    records = [MachineRecord.read(p) for p in (short_root / "m").glob("*/machine.json")]
    users = [uid for r in records if r for uid in (r.accounts.daemon.uid, r.accounts.agent.uid)]
    assert len(users) == 6
    assert len(set(users)) == (6 if separate() else 1)


async def test_user_data_that_is_none_makes_nothing(
    compute: LocalCompute, short_root: Path
) -> None:
    for text in ("", "x", user_data()):
        with pytest.raises(ComputeError):
            await compute.create(MachineRequest(name="one", labels=LABELS, user_data=text))
    assert not (short_root / "m/one").exists()
