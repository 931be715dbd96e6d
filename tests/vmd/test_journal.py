"""The journal of counts and refusals on a disk that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from aura_vmd.journal import Journal


async def test_nothing_is_appended_to_half_a_line_when_rewriting_failed(tmp_path: Path) -> None:
    """What was said to be on the disk is there after a restart."""
    state, away = tmp_path / "state", tmp_path / "away"
    state.mkdir()
    path = state / "j"
    path.write_bytes(b"[1]\n[2")  # as a power cut leaves it
    kept = [[1]]
    journal = Journal(path=path, kept=lambda: kept)
    assert journal.load() == [[1]]
    state.rename(away)
    with pytest.raises(FileNotFoundError):
        await journal.append([3])
    away.rename(state)
    kept.append([4])
    await journal.append([4])
    await journal.append([5])
    assert Journal(path=path, kept=lambda: kept).load() == [[1], [4], [5]]
