"""Each benchmark runs and tells what it should; what it measures is never judged here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from benchmarks.__main__ import BENCHMARKS
from benchmarks.measuring import Effort, Spread, by_turns, figure

_SPREAD = {"median", "least", "most"}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_measures_both_sides(name: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks", name, "--quick", "--json"],
        check=True,
        capture_output=True,
        text=True,
        timeout=150,
    )
    document = json.loads(answer.stdout)
    assert set(document) == {"python", "processors", "benchmarks"}
    assert set(document["benchmarks"]) == {name}
    figures = document["benchmarks"][name]
    assert figures
    assert len({one["name"] for one in figures}) == len(figures)
    for one in figures:
        _check(one)


def _check(one: dict[str, Any]) -> None:
    assert set(one) == {"name", "limit", "unit", "ratio", "aura", "bare", "rounds"}
    assert one["limit"]
    assert one["unit"] in ("ms", "bytes", "MiB")
    for spread in (one["ratio"], one["aura"], one["bare"]):
        assert set(spread) == _SPREAD
        assert 0 < spread["least"] <= spread["median"] <= spread["most"]
    if one["rounds"] == 1:
        assert one["ratio"]["median"] == one["aura"]["median"] / one["bare"]["median"]


def test_an_unknown_benchmark_is_refused() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks", "compose", "speed"],
        check=False,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert answer.returncode == 2
    assert "there is no speed" in answer.stderr


def test_sides_take_turns_and_the_first_round_is_thrown_away() -> None:
    taken: list[str] = []

    def side(name: str) -> float:
        taken.append(name)
        return float(len(taken))

    samples = by_turns(2, lambda: side("aura"), lambda: side("bare"))
    assert taken == ["aura", "bare"] * 3
    assert samples == [[3.0, 5.0], [4.0, 6.0]]


def test_a_ratio_is_of_samples_of_the_same_round() -> None:
    # The machine was twice as slow in the second round, for both sides.
    one = figure("f", limit="l", unit="ms", aura=[2.0, 4.0, 9.0], bare=[1.0, 2.0, 3.0])
    assert one.ratio == Spread(median=2.0, least=2.0, most=3.0)
    assert one.aura == Spread(median=4.0, least=2.0, most=9.0)
    assert one.rounds == 3


@pytest.mark.parametrize("effort", [{"rounds": 0, "calls": 1}, {"rounds": 1, "calls": 0}])
def test_nothing_is_measured_without_a_round_and_a_call(effort: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Effort(**effort)
