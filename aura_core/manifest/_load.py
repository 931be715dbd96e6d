"""Reading manifests: TOML to :class:`Manifest`; errors say file, key, reason, spelling."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from aura_core.errors import ManifestError
from aura_core.manifest._base import is_loopback
from aura_core.manifest._model import Manifest

MAX_BYTES = 256 * 1024


def load_manifest(
    data: bytes | Path, *, source: str | None = None, allow_loopback_http: bool = False
) -> Manifest:
    """Read one manifest.

    ``source`` names it in errors (the file's path when ``data`` is one). Plain http is accepted
    for loopback addresses only, and only with ``allow_loopback_http``: on a shared host any local
    user may listen on loopback, so the operator decides. Raises :class:`ManifestError`.
    """
    if isinstance(data, Path):
        source = source or str(data)
        try:
            data = data.read_bytes()
        except OSError as error:
            raise ManifestError(
                source=source, key="", reason=f"cannot be read: {error.strerror}"
            ) from None
    source = source or "<manifest>"
    if len(data) > MAX_BYTES:
        raise ManifestError(source=source, key="", reason=f"is larger than {MAX_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise ManifestError(source=source, key="", reason="is not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ManifestError(source=source, key="", reason=f"is not TOML: {error}") from None
    return check_manifest(document, source=source, allow_loopback_http=allow_loopback_http)


def check_manifest(
    document: Mapping[str, Any], *, source: str, allow_loopback_http: bool = False
) -> Manifest:
    """The manifest that a document holds: :func:`load_manifest` without the reading."""
    for key in ("relocations", "private_hosts"):  # the operator's settings alone open these
        if key in document:
            raise ManifestError(source=source, key=key, reason="is not a key of a manifest")
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        raise _explain(error, source) from None
    if not allow_loopback_http:
        _refuse_http(document, source, "")
    return manifest


def _refuse_http(value: Any, source: str, key: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_http(inner, source, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _refuse_http(inner, source, f"{key}[{index}]")
    elif isinstance(value, str) and value[:7].lower() == "http://":  # RFC 3986 §3.1: any case
        host = urlsplit(value).hostname or ""
        if is_loopback(host):
            raise ManifestError(
                source=source,
                key=key,
                reason="plain http is not allowed here",
                hint="An operator may allow it for loopback with AURA_ALLOW_LOOPBACK_HTTP=1.",
            )


def _explain(error: ValidationError, source: str) -> ManifestError:
    errors = error.errors(include_url=False, include_input=False)
    # A misspelt key explains the missing one that is reported beside it.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = [part for part in first["loc"] if not _is_union_tag(part)]
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else (f".{part}" if key else str(part))
    reason = first["msg"].removeprefix("Value error, ")
    hint = None
    if first["type"] == "extra_forbidden":
        reason = "is not a key here"
        near = _nearest(str(path[-1]), path[:-1], first["loc"])
        hint = f"Did you mean {near!r}?" if near else None
    elif first["type"] == "missing":
        reason = "is missing"
    return ManifestError(source=source, key=key, reason=reason, hint=hint)


_STRATEGIES = frozenset(
    tag
    for member in get_args(get_args(Manifest.model_fields["auth"].annotation)[0])
    for model in (get_args(member) or (member,))
    if isinstance(model, type) and issubclass(model, BaseModel)
    for tag in get_args(model.model_fields["strategy"].annotation)
)


def _is_union_tag(part: str | int) -> bool:
    return part in _STRATEGIES


def _nearest(key: str, path: list[str | int], loc: tuple[str | int, ...]) -> str | None:
    """The right key closest in spelling, looked up in the model that the path leads to."""
    model: Any = Manifest
    for part in loc[:-1]:
        model = _descend(model, part)
        if model is None:
            return None
    names = list(model.model_fields)
    return next(iter(difflib.get_close_matches(key, names, n=1)), None)


def _descend(model: Any, part: str | int) -> Any:
    candidates = model if isinstance(model, tuple) else (model,)
    if isinstance(part, int):
        return model
    if part in _STRATEGIES:
        for candidate in candidates:
            if part in get_args(candidate.model_fields["strategy"].annotation):
                return candidate
        return None
    for candidate in candidates:
        field = candidate.model_fields.get(part)
        if field is not None:
            found = tuple(_models_in(field.annotation))
            return found[0] if len(found) == 1 else (found or None)
    return None


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]
