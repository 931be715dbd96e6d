"""Python imports this at its start wherever the folder is on ``PYTHONPATH``: in every program that
a test starts. Whatever such a process composes is kept for the test that started it to check."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["FOLDER", "observe"]

FOLDER = "COMPOSED_IN_TESTS"
"""The variable that names the folder in which documents are kept, a file for each."""

_COMPOSING = "cloudinit_templates.composing"


def observe(composing: ModuleType) -> None:
    """Have everything that is composed from now on kept; nothing else about it changes."""
    made = composing.Composed

    def kept(**parts: Any) -> Any:
        composed = made(**parts)
        folder = os.environ.get(FOLDER)
        if folder:
            _keep(Path(folder), composed)
        return composed

    composing.Composed = kept  # type: ignore[attr-defined]


def _keep(folder: Path, composed: Any) -> None:
    path = folder / hashlib.sha256(composed.user_data.encode()).hexdigest()
    if not path.exists():
        parts = {
            field.name: getattr(composed, field.name) for field in dataclasses.fields(composed)
        }
        parts["raw"] = base64.b64encode(composed.raw).decode()
        # Another process may look at any moment, so it appears as a whole.
        new = path.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps(parts))
        new.rename(path)


class _Finder(MetaPathFinder):
    """Finds the module that composes as anybody else would, and observes it once it is there."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != _COMPOSING:
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Observed(spec.loader)
                return spec
        return None


class _Observed(Loader):
    def __init__(self, inner: Loader) -> None:
        self._inner = inner

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        observe(module)


if FOLDER in os.environ:
    sys.meta_path.insert(0, _Finder())
