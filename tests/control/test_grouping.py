"""Writes that gather while another is under way, and one of them that cannot be written."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from aura_control.services.grouping import GroupedWrites


class Table:
    """What is written, a group at a time; it takes some items never."""

    def __init__(self) -> None:
        self.refused: set[int] = set()
        self.groups: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def write(self, items: Sequence[int]) -> None:
        await self.free.wait()
        if wrong := self.refused.intersection(items):
            raise ValueError(f"cannot write {sorted(wrong)}")
        self.groups.append([*items])

    @property
    def rows(self) -> list[int]:
        return sorted(item for group in self.groups for item in group)


async def test_what_comes_meanwhile_is_one_group_and_no_larger_than_allowed() -> None:
    table = Table()
    writes = GroupedWrites(table.write, largest=3)
    table.free.clear()
    adding = [asyncio.create_task(writes.add(number)) for number in range(8)]
    await asyncio.sleep(0)  # all of them have added
    table.free.set()
    await asyncio.gather(*adding)
    assert table.rows == [*range(8)]
    assert [len(group) for group in table.groups] == [3, 3, 2]


async def test_who_comes_alone_does_not_wait() -> None:
    table = Table()
    writes = GroupedWrites(table.write)
    await writes.add(1)
    assert table.groups == [[1]]


async def test_one_that_cannot_be_written_takes_no_other_with_it() -> None:
    table = Table()
    writes = GroupedWrites(table.write)
    table.refused = {3, 5}
    results = await asyncio.gather(*map(writes.add, range(8)), return_exceptions=True)
    assert table.rows == [0, 1, 2, 4, 6, 7]
    assert [number for number, result in enumerate(results) if result is not None] == [3, 5]
    assert str(results[3]) == "cannot write [3]"  # each is told of its own failure
    await writes.add(9)
    assert 9 in table.rows


async def test_who_was_cancelled_is_written_and_keeps_nobody_waiting() -> None:
    table = Table()
    writes = GroupedWrites(table.write)
    table.free.clear()
    leaving, staying = (asyncio.create_task(writes.add(number)) for number in (1, 2))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    table.free.set()
    await staying
    await writes.settle()
    assert table.rows == [1, 2]


async def test_settling_waits_for_all_that_was_added() -> None:
    table = Table()
    writes = GroupedWrites(table.write)
    adding = [asyncio.create_task(writes.add(number)) for number in range(3)]
    await asyncio.sleep(0)
    await writes.settle()
    assert table.rows == [0, 1, 2]
    await asyncio.gather(*adding)
    await writes.settle()
