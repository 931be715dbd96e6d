"""Writing TOML: the standard library reads it only, and manifests need little of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["toml"]

_WIDTH = 98


def toml(document: Mapping[str, Any]) -> str:
    """The document as TOML: keys in their order, tables behind the values of their parent.

    Values are texts, booleans, whole numbers, lists and mappings of these; anything else raises
    ``TypeError``. ``None`` has no spelling in TOML and is left out.
    """
    return "\n".join(_table(document, "")).strip("\n") + "\n"


def _table(document: Mapping[str, Any], path: str) -> list[str]:
    present = {key: value for key, value in document.items() if value is not None}
    lines = [
        f"{_key(key)} = {_value(value)}" for key, value in present.items() if not _tabular(value)
    ]
    for key, value in present.items():
        if not _tabular(value):
            continue
        name = f"{path}.{_key(key)}" if path else _key(key)
        for inner in value if isinstance(value, list | tuple) else (value,):
            header = f"[[{name}]]" if isinstance(value, list | tuple) else f"[{name}]"
            lines += ["", header, *_table(inner, name)]
    return lines


def _tabular(value: Any) -> bool:
    """Whether a value gets a table of its own: what fits into a line stays in one."""
    if isinstance(value, Mapping):
        return any(isinstance(inner, Mapping | list) for inner in value.values()) or (
            len(_value(value)) > _WIDTH - 20
        )
    return isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return _quoted(value)
    if isinstance(value, list | tuple):
        plain = ", ".join(_value(item) for item in value)
        if len(plain) < _WIDTH - 20:
            return f"[{plain}]"
        return "[\n" + "".join(f"    {_value(item)},\n" for item in value) + "]"
    if isinstance(value, Mapping):
        pairs = (f"{_key(k)} = {_value(v)}" for k, v in value.items() if v is not None)
        return "{ " + ", ".join(pairs) + " }" if value else "{}"
    raise TypeError(f"{type(value).__name__} has no place in a manifest")


def _key(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _quoted(key)


def _quoted(text: str) -> str:
    # JSON's escapes are TOML's too; TOML allows no bare DEL besides.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
