"""What the machine holds, on disk: the sealed messages as they came, and nothing else.

One file for each subject. A message carries its own revision, digest and signature, so there is no
second record that could disagree with it. A delete's message stays as tombstone: its revision is
what keeps an older put from coming back.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from aura_core.errors import AuraError, MalformedMessage
from aura_core.wire import MAX_MESSAGE_BYTES, Op, Push, parse_push
from aura_vmd.files import TEMPORARY, read_nofollow, sync_directory, write_durably

__all__ = ["Held", "Store"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """What is known of a stored message without opening it."""

    op: Op
    revision: int
    digest: str


class Store:
    """The sealed messages below ``directory``; unusable ones are moved to ``damaged``."""

    def __init__(self, *, directory: Path, damaged: Path) -> None:
        self._directory = directory
        self._damaged_directory = damaged
        self._held: dict[str, Held] = {}
        self._damaged: set[str] = set()

    @property
    def held(self) -> Mapping[str, Held]:
        return MappingProxyType(self._held)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Subjects whose file was set aside and that have not come again since."""
        return tuple(sorted(self._damaged))

    def revisions(self) -> dict[str, int]:
        """Subject to revision, tombstones included: what the control plane compares."""
        return {subject: held.revision for subject, held in self._held.items()}

    def load(self, accept: Callable[[Push], None]) -> None:
        """Read everything. What ``accept`` refuses (an ``AuraError``) is set aside, not believed.

        A file that is set aside no longer counts as held, so the next pull brings it again.
        """
        for directory in (self._directory, self._damaged_directory):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self._directory.iterdir()):
            if path.name.startswith(TEMPORARY):
                path.unlink()
            elif path.suffix == ".json":
                self._load_one(path, accept)

    def _load_one(self, path: Path, accept: Callable[[Push], None]) -> None:
        subject = path.name.removesuffix(".json")
        try:
            push = parse_push(read_nofollow(path, limit=MAX_MESSAGE_BYTES))
            if push.header.connection_id != subject:
                raise MalformedMessage("The file is named after another subject.")
            accept(push)
        except (AuraError, OSError) as error:
            _log.error("set aside the damaged message of %s: %s", subject, error)
            os.replace(path, self._damaged_directory / path.name)
            sync_directory(self._directory)
            self._damaged.add(subject)
            return
        self._remember(push)

    def write(self, push: Push, raw: bytes) -> None:
        """Keep a verified message durably, then count it as held. Blocks. Raises ``OSError``."""
        write_durably(self._directory / f"{push.header.connection_id}.json", raw)
        self._remember(push)

    def _remember(self, push: Push) -> None:
        subject = push.header.connection_id
        self._held[subject] = Held(
            op=push.header.op, revision=push.header.revision, digest=push.digest
        )
        self._damaged.discard(subject)
