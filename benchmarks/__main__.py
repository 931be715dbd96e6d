"""``python -m benchmarks [NAME ...] [--json] [--quick]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict

from benchmarks import audit, broker, compose, daemon, deliver, fanout, imports, keys, refresh
from benchmarks.measuring import Effort, Figure

__all__ = ["BENCHMARKS", "main"]

Measure = Callable[[Effort], Sequence[Figure]]

BENCHMARKS: Mapping[str, Measure] = {
    "compose": compose.measure,
    "deliver": deliver.measure,
    "fanout": fanout.measure,
    "refresh": refresh.measure,
    "broker": broker.measure,
    "daemon": daemon.measure,
    "imports": imports.measure,
    "audit": audit.measure,
    "keys": keys.measure,
}

_THOROUGH = Effort(rounds=15, calls=100)
_QUICK = Effort(rounds=1, calls=2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Exit codes: 0, or 2 for a benchmark that there is not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--quick", action="store_true", help="one round: only shows that it runs")
    options = parser.parse_args(arguments)
    names = options.names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    effort = _QUICK if options.quick else _THOROUGH
    found: dict[str, Sequence[Figure]] = {}
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        found[name] = BENCHMARKS[name](effort)
        if not options.json:
            _show(name, found[name])
    if options.json:
        print(json.dumps(_document(found), indent=2))
    return 0


def _document(found: Mapping[str, Sequence[Figure]]) -> dict[str, object]:
    return {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "benchmarks": {name: [asdict(one) for one in figures] for name, figures in found.items()},
    }


def _show(name: str, figures: Sequence[Figure]) -> None:
    print(f"{name}")
    for one in figures:
        ratio = f"{one.ratio.median:.2f} x  ({one.ratio.least:.2f} to {one.ratio.most:.2f})"
        print(f"  {one.name:<34} {ratio:<28} {_number(one.aura.median)}", end="")
        print(f" : {_number(one.bare.median)} {one.unit}   limit: {one.limit}")
    print(flush=True)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    sys.exit(main())
