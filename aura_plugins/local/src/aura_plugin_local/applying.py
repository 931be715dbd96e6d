"""Writing user-data out below a machine's directory: what cloud-init and the setup script do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from aura_core.errors import ComputeError
from aura_plugin_local.accounts import Account, Accounts
from aura_plugin_local.record import Places
from aura_plugin_local.userdata import UserData, WrittenFile

__all__ = ["apply", "empty_run", "remove_tree"]


def apply(places: Places, user_data: UserData, accounts: Accounts) -> None:
    """Write the files and make the directories. May be repeated; no process of the machine's runs.

    Raises :class:`ComputeError` for what the disk refuses.
    """
    try:
        for file in user_data.files:
            _write(places, file, accounts)
        _own_home(places, accounts)
        _directory(places, places.skills, 0o750, accounts.daemon, accounts.agent)
        _directory(places, places.state, 0o700, accounts.daemon, accounts.daemon)
        _directory(places, places.logs, 0o700, accounts.find("root"), accounts.find("root"))
    except OSError as error:
        raise ComputeError(
            f"{places.directory} cannot be written: {error.strerror}.", retryable=True
        ) from None


def empty_run(places: Places, accounts: Accounts) -> None:
    """``/run`` as after a boot: nothing in it is from before."""
    shutil.rmtree(places.run.parent, ignore_errors=True)
    _directory(places, places.run, 0o750, accounts.daemon, accounts.agent)
    _directory(places, places.agent_run, 0o750, accounts.agent, accounts.agent)


def remove_tree(directory: Path) -> None:
    """Remove everything, also folders that an agent has made unwritable."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        return
    except PermissionError:
        # Opened from above: a closed folder is passed over by the walk that would list it.
        for folder, names, _ in os.walk(directory):
            for name in names:
                if not Path(folder, name).is_symlink():
                    Path(folder, name).chmod(0o700)
        shutil.rmtree(directory, ignore_errors=True)


def _write(places: Places, file: WrittenFile, accounts: Accounts) -> None:
    path = places.rooted(file.path)
    _folders(path.parent, places.directory)
    # Never readable to others, not even for a moment: one of them holds the join token.
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as opened:
        opened.write(file.content)
        _own(handle, accounts.find(file.owner).uid, accounts.find(file.group).gid)
        os.fchmod(handle, file.mode)


def _folders(path: Path, top: Path) -> None:
    """Make the folders down to ``path``, open to the machine's users whatever the umask is."""
    if path != top and not path.is_dir():
        _folders(path.parent, top)
        path.mkdir()
        path.chmod(0o755)


def _own_home(places: Places, accounts: Accounts) -> None:
    """As on a real machine: root's with the sticky bit, so that the agent cannot put something
    else in the place of the skills' folder."""
    _folders(places.home, places.directory)
    agent = accounts.agent
    for folder, names, _ in os.walk(places.home):
        if Path(folder) == places.home and "skills" in names:
            names.remove("skills")
        elif Path(folder) != places.home:
            _own(folder, agent.uid, agent.gid)
    root = accounts.find("root")
    _own(places.home, root.uid, agent.gid)
    places.home.chmod(0o1770)


def _directory(places: Places, path: Path, mode: int, owner: Account, group: Account) -> None:
    _folders(path, places.directory)
    _own(path, owner.uid, group.gid)
    path.chmod(mode)


def _own(target: int | str | Path, uid: int, gid: int) -> None:
    if os.geteuid() == 0:
        os.chown(target, uid, gid)
