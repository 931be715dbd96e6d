"""Cuts Hetzner's published OpenAPI description down to what the fake answers.

    python -m tests.fakes.hetzner.trim_openapi cloud.openapi.json

writes ``openapi.json`` beside this file. Prose and examples are left out; schemas are not changed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

__all__ = ["KEPT", "trimmed"]

KEPT = {
    "/actions": ["get"],
    "/firewalls": ["get", "post"],
    "/firewalls/{id}": ["delete"],
    "/images": ["get"],
    "/images/{id}": ["delete"],
    "/placement_groups": ["get", "post"],
    "/placement_groups/{id}": ["delete"],
    "/pricing": ["get"],
    "/primary_ips": ["get"],
    "/primary_ips/{id}": ["get", "put", "delete"],
    "/server_types": ["get"],
    "/servers": ["get", "post"],
    "/servers/{id}": ["get", "delete"],
    "/servers/{id}/actions/poweron": ["post"],
    "/ssh_keys": ["get"],
}
_PROSE = {"description", "example", "examples", "title", "summary", "x-codeSamples", "tags"}


def trimmed(document: dict[str, Any]) -> dict[str, Any]:
    paths = {
        path: {method: _bare(document["paths"][path][method]) for method in methods}
        for path, methods in KEPT.items()
    }
    if '"$ref"' in json.dumps(paths):
        raise ValueError("this description refers to components, which are not copied")
    return {"openapi": document["openapi"], "paths": paths}


def _bare(value: Any, *, names: bool = False) -> Any:
    """Without prose. The keys of ``properties`` are names, whatever they are."""
    if isinstance(value, list):
        return [_bare(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _bare(item, names=key == "properties" and not names)
        for key, item in value.items()
        if names or key not in _PROSE
    }


if __name__ == "__main__":
    source = json.loads(Path(sys.argv[1]).read_text())
    target = Path(__file__).with_name("openapi.json")
    target.write_text(json.dumps(trimmed(source), indent=1) + "\n")
