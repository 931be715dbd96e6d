"""Booting a machine without a virtual one: systemd as PID 1 in namespaces, cloud-init for real."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

__all__ = ["Booted", "boot"]

T = TypeVar("T")

ENTER = Path(__file__).parent / "enter.sh"
NAMESPACES = ("--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup")
_POWEROFF = signal.SIGRTMIN + 4  # systemd(1)
_CLONE_NEWNET = 0x40000000


class Booted:
    """A machine that is up. Its network is a loopback device of its own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, command: str, *, check: bool = True, timeout: float = 120) -> str:
        """A shell command within the machine, as root; what it printed."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--uts", "--ipc",
             "--cgroup", "--root", "--wd", "sh", "-c", command],
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def within(self, make: Callable[[], T]) -> T:
        """What ``make`` answers, run in the machine's network: sockets made there stay there."""
        answers: list[T] = []

        def enter() -> None:
            handle = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY)
            libc = ctypes.CDLL(None, use_errno=True)
            entered = libc.setns(handle, _CLONE_NEWNET)  # of this thread alone
            os.close(handle)
            assert entered == 0, os.strerror(ctypes.get_errno())
            answers.append(make())

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        return answers[0]

    def listener(self, port: int) -> socket.socket:
        """A listening socket on the machine's loopback."""
        return self.within(lambda: socket.create_server(("127.0.0.1", port)))

    def ask(self, raw: str, *, port: int = 80) -> str:
        """Send a raw HTTP/1.0 request to a port of the machine's; the whole answer."""
        with self.within(lambda: socket.create_connection(("127.0.0.1", port), 10)) as channel:
            channel.sendall(raw.encode())
            parts = []
            while part := channel.recv(65536):
                parts.append(part)
        return b"".join(parts).decode(errors="replace")


@contextmanager
def boot(base: Path, work: Path, user_data: bytes) -> Iterator[Booted]:
    """Boot ``base`` with its changes kept in ``work``, so that booting again is a reboot.

    The machine is up when its systemd answers; cloud-init is then at work.
    """
    for name in ("upper/var/lib/cloud/seed/nocloud", "overlay", "root"):
        (work / name).mkdir(parents=True, exist_ok=True)
    seed = work / "upper/var/lib/cloud/seed/nocloud"
    (seed / "user-data").write_bytes(user_data)
    (seed / "meta-data").write_text("instance-id: i-test\nlocal-hostname: agent\n")
    (work / "console").write_text("")
    group = _cgroup()
    with (work / "boot.log").open("w") as log:
        launcher = subprocess.Popen(
        ["sh", "-c", 'echo $$ >"$0/cgroup.procs"; exec "$@"', group,
         "unshare", *NAMESPACES, "--fork", "--kill-child", "bash", ENTER, base, work],
        stdout=log, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield Booted(_wait_for_systemd(launcher, work))
    finally:
        _power_off(launcher)
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()


def _cgroup() -> Path:
    """A control group of our own, on hosts with cgroup v2 alone or beside v1."""
    top = Path("/sys/fs/cgroup")
    if (top / "unified").is_dir():
        top = top / "unified"
    group = top / f"aura-test-{os.getpid()}-{time.monotonic_ns()}"
    group.mkdir()
    return group


def _wait_for_systemd(launcher: subprocess.Popen[bytes], work: Path) -> int:
    end = time.monotonic() + 30
    while time.monotonic() < end and launcher.poll() is None:
        for child in _children(launcher.pid):
            ready = Path(f"/proc/{child}/root/run/systemd/private")
            if Path(f"/proc/{child}/comm").read_text() == "systemd\n" and ready.exists():
                return child
        time.sleep(0.05)
    log = (work / "boot.log").read_text() + (work / "console").read_text()
    raise AssertionError(f"systemd did not come up: {log[-3000:]}")


def _power_off(launcher: subprocess.Popen[bytes]) -> None:
    for child in _children(launcher.pid):
        os.kill(child, _POWEROFF)
    try:
        launcher.wait(40)
    except subprocess.TimeoutExpired:
        launcher.kill()  # --kill-child takes PID 1, and with it the namespace, along
        launcher.wait()


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
