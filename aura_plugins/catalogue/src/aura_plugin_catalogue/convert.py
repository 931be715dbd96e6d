"""Write the catalogue's manifests from its facts: ``python -m aura_plugin_catalogue.convert``.

It runs in a checkout, where ``facts/`` lies beside ``src/``. Running it twice changes nothing;
``--check`` changes nothing at all and exits 1 when something would.
"""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aura_plugin_catalogue.manifests import document
from aura_plugin_catalogue.writing import toml

__all__ = ["SHIPPED", "files", "main"]

SHIPPED = frozenset({"elevenlabs", "google"})
"""Providers that have a plugin of their own: of two manifests with one id neither would be used."""

_HERE = Path(__file__).resolve().parent
_FACTS = _HERE.parents[1] / "facts"
_MANIFESTS = _HERE / "manifests"
_INDEX = "index.json"
_ENOUGH = 2


def files(facts: Path) -> dict[str, str]:
    """Every file of the folder of manifests, by its path there: what it should hold."""
    providers = json.loads((facts / "providers.json").read_text("utf-8"))
    corrections = tomllib.loads((facts / "corrections.toml").read_text("utf-8"))
    unknown = sorted(set(corrections) - {provider["id"] for provider in providers})
    if unknown:
        raise ValueError(f"corrections.toml: there are no facts about {unknown[0]!r}")
    written: dict[str, str] = {}
    index: dict[str, Any] = {}
    for provider in providers:
        if provider["id"] in SHIPPED or provider["independent_sources"] < _ENOUGH:
            continue
        manifest = document(provider, corrections.get(provider["id"], {}))
        path = f"{manifest['category']}/{manifest['id']}.toml"
        written[path] = _head(provider) + toml(manifest)
        index[path] = manifest
    written[_INDEX] = _index(index)
    return written


def _head(provider: Mapping[str, Any]) -> str:
    count = provider["independent_sources"]
    return (
        f"# Written by aura_plugin_catalogue.convert from the facts: change those and run it.\n"
        f"# {count} independent sources agree on how {provider['name']} authenticates.\n"
    )


def _index(manifests: Mapping[str, Any]) -> str:
    """All manifests in one file, one to a line: parsed at once when integrations are listed."""
    lines = (
        f"{json.dumps(path)}: {json.dumps(manifests[path], ensure_ascii=False)}"
        for path in sorted(manifests)
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    check = given == ["--check"]
    if given and not check:
        sys.stderr.write("usage: python -m aura_plugin_catalogue.convert [--check]\n")
        return 2
    if not _FACTS.is_dir():
        sys.stderr.write("The facts are part of a checkout, not of an installed distribution.\n")
        return 2
    wanted = files(_FACTS)
    there = {
        path.relative_to(_MANIFESTS).as_posix(): path
        for path in _MANIFESTS.rglob("*")
        if path.is_file()
    }
    stale = [path for name, path in there.items() if name not in wanted]
    changed = [
        name
        for name, text in wanted.items()
        if name not in there or there[name].read_text("utf-8") != text
    ]
    if not check:
        _write(wanted, changed, stale)
    sys.stdout.write(f"{len(wanted) - 1} manifests, {len(changed) + len(stale)} changes\n")
    return 1 if check and (changed or stale) else 0


def _write(wanted: Mapping[str, str], changed: Sequence[str], stale: Sequence[Path]) -> None:
    for path in stale:
        path.unlink()
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    for name in changed:
        path = _MANIFESTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name], "utf-8")


if __name__ == "__main__":
    sys.exit(main())
