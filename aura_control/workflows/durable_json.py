"""How arguments, results and errors of durable work are written down.

JSON and nothing else: a value that would come back as another type after a restart is refused when
it is first used. Nothing here puts a value into a message: what is refused may be a secret that
should not have come this far.
"""

from __future__ import annotations

import json
import math
from typing import Any

from aura_core import errors
from aura_core.errors import AuraError

__all__ = ["UnexpectedFailure", "decode", "encode"]


class UnexpectedFailure(AuraError):
    """A step failed in a way that nobody planned for; the log of that moment says more."""


def encode(value: object) -> str:
    """The durable text of a JSON value, of a workflow's inputs, or of an error.

    Raises TypeError, naming place and type, for anything else.
    """
    document: dict[str, object]
    if isinstance(value, BaseException):
        document = {"error": _describe(value)}
    elif (inputs := _inputs(value)) is not None:
        document = {"inputs": inputs}
    else:
        document = {"value": value}
    _require_json(document, "value")
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def decode(text: str) -> Any:
    """What :func:`encode` wrote."""
    (kind, content), *_ = json.loads(text).items()
    if kind == "error":
        return _restore(content)
    if kind == "inputs":
        return {"args": tuple(content["args"]), "kwargs": content["kwargs"]}
    return content


def _inputs(value: object) -> dict[str, object] | None:
    """The engine's own pair of positional and named arguments: its tuple is the only one."""
    if isinstance(value, dict) and value.keys() == {"args", "kwargs"}:
        positional = value["args"]
        if isinstance(positional, tuple):
            return {"args": [*positional], "kwargs": value["kwargs"]}
    return None


def _require_json(value: object, place: str) -> None:
    kind = type(value)  # exactly: a subclass would come back as its base
    if value is None or kind in (bool, int, str):
        return
    if kind is float and math.isfinite(value):  # type: ignore[arg-type]
        return
    if isinstance(value, list) and kind is list:
        for index, item in enumerate(value):
            _require_json(item, f"{place}[{index}]")
        return
    if isinstance(value, dict) and kind is dict and all(type(key) is str for key in value):
        for key, item in value.items():
            _require_json(item, f"{place}.{key}")
        return
    raise TypeError(f"durable work takes JSON values only; {place} is a {kind.__name__}")


def _describe(error: BaseException) -> dict[str, object]:
    """Aura's errors are written for people and hold no secret; what others say is dropped."""
    for kind in type(error).__mro__:
        if isinstance(error, AuraError) and kind.__name__ in errors.__all__:
            facts = {key: fact for key, fact in vars(error).items() if _is_json(fact)}
            return {"class": kind.__name__, "facts": facts}
    return {"class": UnexpectedFailure.__name__, "facts": {"kind": type(error).__name__}}


def _restore(document: dict[str, Any]) -> AuraError:
    name, facts = document["class"], document["facts"]
    if name not in errors.__all__:
        return UnexpectedFailure(f"An unexpected {facts['kind']} ended the work.")
    kind: type[AuraError] = getattr(errors, name)
    error = kind.__new__(kind, facts["message"])  # its own __init__ may want more than is known
    vars(error).update(facts)
    return error


def _is_json(value: object) -> bool:
    try:
        _require_json(value, "fact")
    except TypeError:
        return False
    return True
