"""The daemon: its composition root and its command line."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager

from aura_core import __version__
from aura_core.errors import AuraError, ConfigurationError
from aura_core.skills import unpack_skills
from aura_vmd.actions import ActionLog
from aura_vmd.broker import Broker, BrokerLimits
from aura_vmd.conduct import Conduct
from aura_vmd.control import ControlClient, control_client
from aura_vmd.enrol import Enrolled, enrol, load_enrolment, load_or_make_keys
from aura_vmd.files import write_durably
from aura_vmd.health import Health
from aura_vmd.holdings import Holdings
from aura_vmd.http import http_app
from aura_vmd.inbox import Identity, Inbox
from aura_vmd.listeners import broker_listener, http_listener
from aura_vmd.metering import Metering
from aura_vmd.notify import Notifier
from aura_vmd.outgoing import ProviderClient, provider_client
from aura_vmd.policy import Policy
from aura_vmd.privileges import (
    account,
    become,
    check_reachable,
    harden,
    myself,
    prepare_directories,
)
from aura_vmd.refusals import Refusals
from aura_vmd.settings import Settings, load_settings
from aura_vmd.skills import Skills
from aura_vmd.store import Store
from aura_vmd.sync import Sync

__all__ = ["Daemon", "create_app", "main"]

_log = logging.getLogger(__name__)

_THREADS = 32


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Daemon:
    """Everything that :func:`create_app` has put together, and the order in which it runs."""

    def __init__(
        self,
        *,
        settings: Settings,
        limits: BrokerLimits,
        notifier: Notifier,
        now_ms: Callable[[], int],
    ) -> None:
        layout = settings.layout
        self._settings = settings
        self._limits = limits
        self._notifier = notifier
        self._now_ms = now_ms
        self._agent = account(settings.agent_user)
        self._keys = load_or_make_keys(settings)
        self._store = Store(directory=layout.state / "sealed", damaged=layout.state / "damaged")
        self._holdings = Holdings()
        self._skills = Skills(directory=layout.skills)
        self._inbox = Inbox(
            identity=Identity(
                instance_id=settings.instance_id,
                keys=self._keys,
                control_public_keys=settings.control_public_keys,
            ),
            store=self._store,
            holdings=self._holdings,
            skills=self._skills,
            now_ms=now_ms,
        )
        self._health = Health(
            root=layout.root,
            disk=layout.state,
            readiness=settings.runtime.readiness,
            holdings=self._holdings,
            store=self._store,
            skills=self._skills,
            inbox=self._inbox,
        )
        self._meter = Metering(path=layout.state / "usage.jsonl", holdings=self._holdings)
        self._refusals = Refusals(path=layout.state / "refused.jsonl", now_ms=now_ms)
        self._enrolled: Enrolled | None = None
        self._sync: Sync | None = None
        self._deaf = False

    async def run(self, stop: asyncio.Event, *, ready: asyncio.Event | None = None) -> None:
        """Serve until ``stop``; ``ready`` is set once it listens.

        Raises :class:`ConfigurationError` when it cannot begin.
        """
        self._enrolled = load_enrolment(self._settings, self._keys)
        await asyncio.to_thread(self._load)
        async with AsyncExitStack() as stack:
            control = await stack.enter_async_context(
                control_client(
                    url=self._settings.control_url,
                    instance_id=self._settings.instance_id,
                    keys=self._keys,
                    now_ms=self._now_ms,
                )
            )
            provider = await stack.enter_async_context(provider_client())
            # The last to end but for the clients: by then nobody brings another message.
            stack.push_async_callback(self._inbox.settle)
            await self._listen(stack, provider)
            work = asyncio.create_task(self._work(control))
            stopped = asyncio.create_task(stop.wait())
            self._notifier.say("READY=1")
            if ready is not None:
                ready.set()
            _log.info("ready, aura-vmd %s", __version__)
            try:
                await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    await work
            finally:
                self._notifier.say("STOPPING=1")
                for task in (work, stopped):
                    task.cancel()
                await asyncio.gather(work, stopped, return_exceptions=True)
        _log.info("stopped")

    def _load(self) -> None:
        self._inbox.load()
        self._meter.load()
        self._refusals.load()
        try:
            self._skills.want_composed(self._settings.layout.skills_archive.read_bytes())
        except FileNotFoundError:
            pass
        except OSError as error:
            _log.error("the composed skills cannot be read: %s", error.strerror)
        self._skills.settle_now()

    async def _listen(self, stack: AsyncExitStack, provider: ProviderClient) -> None:
        layout = self._settings.layout
        actions = ActionLog(path=layout.state / "actions.jsonl")
        broker = Broker(
            policy=Policy(holdings=self._holdings, on_expired=self._wake),
            provider=provider,
            actions=actions,
            meter=self._meter,
            refusals=self._refusals,
            limits=self._limits,
        )
        # After the listener, in this order: what calls leave to be written, then the writing.
        for written in (actions, self._meter, self._refusals):
            stack.push_async_callback(written.settle)
        stack.push_async_callback(broker.settle)
        await stack.enter_async_context(
            broker_listener(broker.handle, layout=layout, agent=self._agent)
        )
        app = http_app(inbox=self._inbox, status=self._status, report=self._health.report)
        try:
            await stack.enter_async_context(
                http_listener(app, listen=self._settings.listen, layout=layout)
            )
        except ConfigurationError as error:
            # A process of the agent's may have taken the port while the daemon was restarted. That
            # must not end the daemon: what is to be delivered comes by pulls, only later.
            self._deaf = True
            _log.error("no pushes are received: %s", error)

    async def _work(self, control: ControlClient) -> None:
        """Enrol if need be, then keep in step with the control plane."""
        if self._enrolled is None:
            self._enrolled = await enrol(self._settings, self._keys, control, now_ms=self._now_ms)
            _log.info("enrolled")
        self._inbox.admit(self._enrolled.gateway_token)
        await asyncio.to_thread(write_durably, self._settings.layout.enrolled_file, b"", mode=0o644)
        self._sync = Sync(
            control=control,
            inbox=self._inbox,
            store=self._store,
            skills=self._skills,
            report=self._health.report,
            conduct=Conduct(meter=self._meter, refusals=self._refusals),
            heartbeat_seconds=self._enrolled.heartbeat_seconds,
        )
        await self._sync.run()

    def _wake(self) -> None:
        if self._sync is not None:
            self._sync.wake()

    def _status(self) -> str:
        if self._enrolled is None:
            return "enrolling"
        amiss = self._deaf, self._store.damaged, self._skills.failing, self._inbox.conflicts
        return "degraded" if any(amiss) else "ok"


def create_app(
    settings: Settings,
    *,
    limits: BrokerLimits | None = None,
    environment: Mapping[str, str] | None = None,
    now_ms: Callable[[], int] = _now_ms,
) -> Daemon:
    """Put the daemon together. Its directories are there; privileges are the caller's matter."""
    return Daemon(
        settings=settings,
        limits=limits or BrokerLimits(),
        notifier=Notifier(environment or {}),
        now_ms=now_ms,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """``aura-vmd run | unpack-skills | check``. Exit codes: 0, 1 failed, 78 wrong settings
    (EX_CONFIG of sysexits.h)."""
    parser = argparse.ArgumentParser(prog="aura-vmd", description=__doc__)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="serve until SIGTERM")
    commands.add_parser("unpack-skills", help="unpack the composed skills archive and exit")
    commands.add_parser("check", help="say whether the settings can be used, and exit")
    command = parser.parse_args(arguments).command
    logging.basicConfig(
        level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    try:
        settings = load_settings(os.environ)
        return _COMMANDS[command](settings)
    except ConfigurationError as error:
        print(f"aura-vmd: {error}", file=sys.stderr)  # noqa: T201
        return 78
    except AuraError as error:
        print(f"aura-vmd: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(settings: Settings) -> int:
    agent = account(settings.agent_user)
    daemon = account(settings.user) if os.geteuid() == 0 else myself()
    prepare_directories(settings.layout, daemon=daemon, agent=agent)
    become(daemon, agent=agent)
    check_reachable()
    harden()
    with _alone(settings):
        asyncio.run(_serve(create_app(settings, environment=os.environ)))
    return 0


async def _serve(daemon: Daemon) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    # More threads than slow name servers of providers can keep busy: the disk needs some too.
    loop.set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="aura"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await daemon.run(stop)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """One daemon for one state directory: the lock goes with the process, however it ends."""
    path = settings.layout.state / "lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"Another daemon runs on {settings.layout.state}.") from None
        yield


def _unpack(settings: Settings) -> int:
    layout = settings.layout
    try:
        archive = layout.skills_archive.read_bytes()
        layout.skills.mkdir(parents=True, exist_ok=True)
        names = unpack_skills(archive, layout.skills)
    except OSError as error:
        raise ConfigurationError(f"The skills cannot be unpacked: {error}.") from None
    print(*names, sep="\n")  # noqa: T201
    return 0


def _check(settings: Settings) -> int:
    account(settings.agent_user)
    if os.geteuid() == 0:
        account(settings.user)
    print(f"{settings.layout.settings_file}: instance {settings.instance_id}")  # noqa: T201
    return 0


_COMMANDS: Mapping[str, Callable[[Settings], int]] = {
    "run": _run,
    "unpack-skills": _unpack,
    "check": _check,
}


if __name__ == "__main__":
    sys.exit(main())
