"""What the agent can do to the daemon's process and files: nothing.

As root, the daemon and the attacker get two users of their own, as on a machine. Otherwise both
are this user, which shows the harder part: the process is closed even to its own user's others.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from aura_core.errors import ConfigurationError
from aura_vmd.privileges import Account, account, become
from tests.vmd.control_plane import Control, until
from tests.vmd.harness import Provider, binding, credential, policy
from tests.vmd.process import AGENT, DAEMON, machine, started

IS_ROOT = os.geteuid() == 0

BEGIN = r"""
import ctypes, json, os, socket, sys
uid, pid, root, groups = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])
libc = ctypes.CDLL(None, use_errno=True)
if os.geteuid() == 0:
    os.setgroups(groups)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)

def attempt(action):
    try:
        return action() or "done"
    except OSError as error:
        return type(error).__name__
"""

USE = r"""
def broker():
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(f"{root}/run/aura/broker.sock")
        channel.sendall(b"GET /v1 HTTP/1.1\r\nHost: b\r\n\r\n")
        answer = channel.recv(65536)
        return answer.split(b"\r\n")[0].decode() or "closed"

print(json.dumps({"broker": attempt(broker)}))
"""

ATTACK = r"""
def ptrace():
    if libc.ptrace(16, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")

def read(path, size=16):
    with open(path, "rb") as file:
        return file.read(size) and "read"

found = {"ptrace": attempt(ptrace)}
for name in ("mem", "environ", "maps", "auxv"):
    found[name] = attempt(lambda: read(f"/proc/{pid}/{name}", 1))
found["fd"] = attempt(lambda: os.listdir(f"/proc/{pid}/fd") and "read")
for name in ("keys.json", "enrolment.json", "sealed/policy.json", "sealed/c-1.json"):
    found[name] = attempt(lambda: read(f"{root}/var/lib/aura/{name}"))
found["listing"] = attempt(lambda: os.listdir(f"{root}/var/lib/aura") and "read")
found["replace socket"] = attempt(lambda: os.rename(f"{root}/run/aura/broker.sock", f"{root}/x"))
found["write skills"] = attempt(lambda: os.mkdir(f"{root}/var/lib/agent/skills/evil"))
found["signal"] = attempt(lambda: os.kill(pid, 0))
print(json.dumps(found))
"""


async def as_user(
    program: str, root: Path, pid: int, *, uid: int, groups: tuple[int, ...] = ()
) -> dict[str, str]:
    """What came of a program that became this user, where it could, before it began."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-c", BEGIN + program,
        str(uid), str(pid), str(root), json.dumps(groups),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, _ = await process.communicate()
    found: dict[str, str] = json.loads(out)
    return found


MEMORY = ("ptrace", "mem", "environ", "maps", "auxv", "fd")


async def test_memory_and_files_are_closed_to_the_agent(
    root: Path, control: Control, provider: Provider
) -> None:
    vm = machine(root, control, agent=AGENT)
    async with started(root) as daemon:
        await until(lambda: control.heartbeats, changed=control.changed)
        await vm.deliver("c-1", credential(binding(provider.url)))
        await vm.deliver("policy", policy("email:read"))
        found = await as_user(ATTACK, root, daemon.pid, uid=AGENT)
        # Not even to another process of the daemon's own user, which files are no obstacle to.
        twin = await as_user(ATTACK, root, daemon.pid, uid=DAEMON)
        assert (await daemon.end(signal.SIGTERM))[0] == 0
    assert {found[name] for name in MEMORY} == {"PermissionError"}, found
    assert {twin[name] for name in MEMORY} == {"PermissionError"}, twin
    assert twin["keys.json"] == "read"
    if IS_ROOT:
        names = ("keys.json", "enrolment.json", "sealed/policy.json", "sealed/c-1.json", "listing",
                 "replace socket", "write skills", "signal")  # fmt: skip
        files = {name: found[name] for name in names}
        assert set(files.values()) == {"PermissionError"}, files


async def test_the_attack_works_on_a_process_that_is_not_closed(root: Path) -> None:
    """Else the test before would show nothing: here is what it finds where nothing is closed."""
    identity = {"user": AGENT, "group": AGENT, "extra_groups": ()} if IS_ROOT else {}
    victim = await asyncio.create_subprocess_exec("sleep", "60", **identity)  # type: ignore[arg-type]
    try:
        found = await as_user(ATTACK, root, victim.pid, uid=AGENT)
    finally:
        victim.kill()
        await victim.wait()
    # Attaching and opening the memory may be a matter of the kernel's Yama besides.
    opened = {name: found[name] for name in ("environ", "maps", "auxv", "fd")}
    assert set(opened.values()) == {"read"}, found


BEFORE_ROOT_IS_GIVEN_UP = """
import os
os.chmod(__file__, 0)
"""


async def test_an_interpreter_that_the_daemon_could_not_read_later_is_refused_at_the_start(
    root: Path, control: Control
) -> None:
    machine(root, control, agent=AGENT)
    folder = root / "modules"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BEFORE_ROOT_IS_GIVEN_UP)
    places = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    async with started(root, PYTHONPATH=places) as daemon:
        code, err = await daemon.wait()
    assert code == 78
    assert f"cannot read {folder}/sitecustomize.py" in err
    assert "Traceback" not in err


async def test_the_agent_may_use_the_broker_and_others_may_not(
    root: Path, control: Control
) -> None:
    machine(root, control, agent=AGENT)
    async with started(root) as daemon:
        mine = await as_user(USE, root, daemon.pid, uid=AGENT)
        # In the agent's group, so that the files let it through: the uid is what counts.
        other = await as_user(USE, root, daemon.pid, uid=61190, groups=(AGENT,))
        assert (await daemon.end(signal.SIGTERM))[0] == 0
    assert mine["broker"] == "HTTP/1.1 200 OK"
    if IS_ROOT:
        assert other["broker"] in ("closed", "ConnectionResetError", "BrokenPipeError")


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


async def test_the_process_has_given_up_what_it_does_not_need(root: Path, control: Control) -> None:
    machine(root, control, agent=AGENT)
    async with started(root) as daemon:
        status = status_of(daemon.pid)
        assert (await daemon.end(signal.SIGTERM))[0] == 0
    assert status["NoNewPrivs"] == "1"
    assert status["Umask"] == "0077"
    if IS_ROOT:
        assert status["Uid"].split() == ["61183"] * 4
        assert status["Gid"].split() == ["61183"] * 4
        assert status["Groups"].split() == [str(AGENT)]
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def test_an_account_is_a_name_or_numbers() -> None:
    assert account("61184") == Account(uid=61184, gid=61184)
    assert account("61184:100") == Account(uid=61184, gid=100)
    assert account("root") == Account(uid=0, gid=0)
    with pytest.raises(ConfigurationError, match="no-such-user"):
        account("no-such-user")


@pytest.mark.parametrize(
    ("daemon", "agent"), [("0", "61184"), ("61183:0", "61184"), ("61184", "61184")]
)
def test_root_does_not_become_root_or_the_agent(
    daemon: str, agent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delattr(os, "setgroups")  # nothing may be given up before the check
    with pytest.raises(ConfigurationError, match="neither root nor the agent's"):
        become(account(daemon), agent=account(agent))
