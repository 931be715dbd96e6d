"""Who has an account at the twin, and what the twin says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aura_core.manifest import Call, Manifest, Variable, snake_case

__all__ = ["TwinAccount", "write_path"]

_PART_END = "["


@dataclass(frozen=True, kw_only=True)
class TwinAccount:
    """A person with an account. ``facts`` answer what a manifest captures, by its metadata keys."""

    id: str = "1001"
    email: str = "robin@example.com"
    name: str = "Robin Example"
    facts: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    """The credentials that are typed in; one that is left out is ``twin-NAME-ID``."""

    def credential(self, name: str) -> str:
        """What this account's field of that name is."""
        return self.fields.get(name, f"twin-{name}-{self.id}")

    def fact(self, key: str, manifest: Manifest) -> Any:
        """The value of a captured fact."""
        if key in self.facts:
            return self.facts[key]
        known = {"email": self.email, "name": self.name, "id": self.id}
        for word, value in known.items():
            if snake_case(key).split("_")[-1] == word:
                return value
        for method in manifest.auth:
            for variable in method.variables:
                if variable.name == snake_case(key):
                    return _value_for(variable, manifest)
        return f"twin-{key}"

    def answer(self, calls: Sequence[Call], manifest: Manifest) -> dict[str, Any] | list[Any]:
        """A document in which each of these calls, all of one endpoint, finds what it looks for."""
        listed = any(call.account_path and call.account_path.startswith("[") for call in calls)
        document: Any = [] if listed else {}
        for call in calls:
            for key, path in call.metadata.items():
                document = [] if path.startswith("[") and not document else document
                document = write_path(document, path, self.fact(key, manifest))
            if call.account_path is not None:
                document = write_path(document, call.account_path, self.id)
            if call.error is not None and call.error.ok is not None:
                document = write_path(document, call.error.path, call.error.ok)
        found: dict[str, Any] | list[Any] = document
        return found


def _value_for(variable: Variable, manifest: Manifest) -> str:
    """A value that the manifest's own check accepts, as far as one can be guessed."""
    if variable.default is not None:
        return variable.default
    if variable.choices:
        return variable.choices[0]
    if variable.url:
        host = next((h for h in manifest.hosts if "{" not in h), "twin.example.com")
        return f"https://{host.replace('*', 'twin')}"
    return "twin"


def write_path(document: Any, path: str, value: Any) -> Any:
    """The document with ``value`` at a JSON path, containers made as needed."""
    head, _, rest = _split(path)
    if head.startswith(_PART_END):
        index = int(head[1:-1])
        items = list(document) if isinstance(document, list) else []
        items += [None] * (index + 1 - len(items))
        items[index] = write_path(items[index], rest, value) if rest else value
        return items
    fields = dict(document) if isinstance(document, dict) else {}
    fields[head] = write_path(fields.get(head), rest, value) if rest else value
    return fields


def _split(path: str) -> tuple[str, str, str]:
    """First part of a path and the rest: ``a[0].b`` is ``a`` and ``[0].b``."""
    if path.startswith("["):
        head, bracket, rest = path.partition("]")
        return head + bracket, "", rest.removeprefix(".")
    cut = min((path.find(mark) for mark in ".[" if mark in path), default=len(path))
    return path[:cut], "", path[cut:].removeprefix(".")
