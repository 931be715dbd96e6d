"""The archive of skills as composing and the daemon use it."""

from __future__ import annotations

import lzma
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from aura_core.skills import VmWriteFile, pack_skills, unpack_skills
from tests.cloudinit.plans import bulky, skill


def test_a_daemon_with_a_strict_umask_makes_folders_that_the_agent_can_read(tmp_path: Path) -> None:
    archive = pack_skills([skill("a-skill")])
    before = os.umask(0o077)
    try:
        unpack_skills(archive, tmp_path)
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(tmp_path)): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")
    }
    assert modes == {
        "a-skill": 0o755,
        "a-skill/SKILL.md": 0o644,
        "a-skill/bin": 0o755,
        "a-skill/bin/a-skill": 0o755,
    }


def test_unpacking_needs_little_memory() -> None:
    archive = pack_skills([bulky(f"s{n}", 10_000) for n in range(8)])
    assert lzma.LZMADecompressor(memlimit=4 * 1024 * 1024).decompress(archive)


@pytest.mark.parametrize("path", [".", "..", "../x", "/", "a//b", "a/./b", "a\\b", "/etc/passwd"])
def test_a_file_without_a_plain_name_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        VmWriteFile(path=path, content="")
