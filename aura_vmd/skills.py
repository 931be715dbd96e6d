"""The skills' folders: made to be what they should be, as often as that is asked for.

The agent reads these folders and must not write them, so they are the daemon's. The agent owns
what is around them, though, and may try to have the daemon write elsewhere by putting a link in
their place. Therefore the directory is opened without following a link, must belong to root or
the daemon, and everything below is reached through that open directory.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from aura_core.errors import ConfigurationError, InvalidInput, MalformedMessage
from aura_core.skills import VmSkillManifest, VmWriteFile, read_skills, skill_digest
from aura_vmd.contents import SkillContent

__all__ = ["Skills"]

_log = logging.getLogger(__name__)

_NEW, _OLD = ".new-", ".old-"

Files = Mapping[str, tuple[bytes, int]]
"""Path within the folder to content and mode."""


@dataclass(frozen=True, kw_only=True)
class _Skill:
    files: Files
    digest: str


class Skills:
    """The skills below ``directory``: wanted by messages, or composed into the machine."""

    def __init__(self, *, directory: Path) -> None:
        self._directory = directory
        self._wanted: dict[str, _Skill | None] = {}
        self._open: set[str] = set()
        self._installed: dict[str, str] = {}
        self._turn = asyncio.Lock()

    @property
    def installed(self) -> Mapping[str, str]:
        """Folder to digest, of what is on disk as it should be."""
        return MappingProxyType(self._installed)

    @property
    def failing(self) -> tuple[str, ...]:
        """Folders that are not yet as they should be; each :meth:`settle` tries them again."""
        return tuple(sorted(self._open))

    def check(self, content: SkillContent) -> None:
        """Raises :class:`MalformedMessage` for a skill that could not be installed."""
        _read_one(content.dir, content.archive)

    def want(self, folder: str, archive: bytes | None) -> None:
        """Have this skill from the next :meth:`settle` on; ``None``: have it no longer."""
        self._wanted[folder] = None if archive is None else _read_one(folder, archive)
        self._open.add(folder)

    def want_composed(self, archive: bytes) -> None:
        """Want the composed archive's skills, but for those that a message has spoken of."""
        try:
            found = read_skills(archive)
            for folder in sorted({name.split("/")[0] for name in found}):
                if folder not in self._wanted:
                    self._wanted[folder] = _composed(folder, _within(folder, found))
                    self._open.add(folder)
        except (InvalidInput, ValidationError) as error:
            _log.error("the composed skills cannot be used: %s", error)

    async def settle(self) -> None:
        """Bring the disk to what is wanted. Failures are logged and stay open."""
        async with self._turn:
            if self._open:
                await asyncio.to_thread(self._settle)

    def settle_now(self) -> None:
        """The same before there is a loop. Blocks."""
        self._settle()

    def _settle(self) -> None:
        for folder in sorted(self._open):
            wanted = self._wanted[folder]
            try:
                with self._own_directory() as base:
                    _bring_about(base, folder, wanted)
            except (OSError, ConfigurationError, UnicodeError) as error:
                _log.error("the skill %s cannot be brought up to date: %s", folder, error)
                self._installed.pop(folder, None)
                continue
            self._open.discard(folder)
            if wanted is None:
                self._installed.pop(folder, None)
            else:
                self._installed[folder] = wanted.digest

    @contextmanager
    def _own_directory(self) -> Iterator[Path]:
        if not self._directory.parent.is_dir():
            raise ConfigurationError(f"{self._directory.parent} does not exist.")
        if not os.path.lexists(self._directory):
            self._directory.mkdir()
            self._directory.chmod(0o755)
        handle = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            status = os.fstat(handle)
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH:
                raise ConfigurationError(f"{self._directory} is not the daemon's own.")
            yield Path(f"/proc/self/fd/{handle}")
        finally:
            os.close(handle)


def _read_one(folder: str, archive: bytes) -> _Skill:
    try:
        found = read_skills(archive)
    except InvalidInput as error:
        raise MalformedMessage(error.message) from None
    if {name.split("/")[0] for name in found} != {folder} or folder.startswith("."):
        raise MalformedMessage(f"The archive of the skill {folder} holds something else.")
    return _Skill(files=_within(folder, found), digest=hashlib.sha256(archive).hexdigest())


def _within(folder: str, found: Files) -> Files:
    return {name.partition("/")[2]: v for name, v in found.items() if name.split("/")[0] == folder}


def _composed(folder: str, files: Files) -> _Skill:
    """A skill out of the archive of many, with the digest that it has as an archive of its own."""
    manifest = VmSkillManifest(
        skill_dir_name=folder,
        provider=folder,
        write_files=tuple(
            VmWriteFile(path=path, content=content.decode(), permissions=f"{mode:04o}")
            for path, (content, mode) in files.items()
        ),
    )
    return _Skill(files=files, digest=skill_digest(manifest))


def _bring_about(base: Path, folder: str, wanted: _Skill | None) -> None:
    target, new, old = base / folder, base / f"{_NEW}{folder}", base / f"{_OLD}{folder}"
    if wanted is not None and _on_disk(target) == wanted.files:
        return
    for left in (new, old):
        _remove(left)
    if wanted is not None:
        _write(new, wanted.files)
    if os.path.lexists(target):
        os.rename(target, old)
    if wanted is not None:
        os.rename(new, target)
    _remove(old)


def _on_disk(folder: Path) -> Files | None:
    if folder.is_symlink() or not folder.is_dir():
        return None
    found: dict[str, tuple[bytes, int]] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            return None
        if path.is_file():
            mode = stat.S_IMODE(path.stat().st_mode)
            found[path.relative_to(folder).as_posix()] = (path.read_bytes(), mode)
    return found


def _write(folder: Path, files: Files) -> None:
    for name, (content, mode) in files.items():
        parent = folder
        for part in ("", *name.split("/")[:-1]):
            parent /= part
            parent.mkdir(exist_ok=True)
            parent.chmod(0o755)
        path = parent / name.split("/")[-1]
        path.write_bytes(content)
        path.chmod(mode)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path)
