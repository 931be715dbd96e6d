"""Logs: one JSON object a line on stderr, without secrets.

Two nets catch what should not have been logged at all: values under a name that sounds secret, and
text in the shape of a known secret. A ``SecretStr`` shows asterisks by itself.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from pydantic import SecretBytes, SecretStr

__all__ = ["configure_logs", "get_logger", "mask"]

_HIDDEN = "***"

_SECRET_NAME = re.compile(
    r"(^|_|-)(tokens?|secrets?|passwords?|authorization|cookies?|api_?keys?|verifier|code|state_?"
    r"|credentials?|user_data|private_key|master_keys?)$",
    re.IGNORECASE,
)

_SECRET_SHAPE = re.compile(
    r"(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}"
    r"|\baura_[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|\b(?:ya29\.|1//|xox[abeprs]-|gh[opsur]_|github_pat_|sk[-_]|rk_|whsec_|AKIA|glpat-)"
    r"[A-Za-z0-9._/-]{8,}"
    r"|\bm[1-9][0-9]*:(?:active|decrypt_only):[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
    r"|(?i:\b(?:access_token|refresh_token|client_secret|code|state|api_key|key|token|password)=)"
    r"[^&\s\"']+"
)


def mask(value: Any) -> Any:
    """``value`` without what looks like a secret, at any depth."""
    if isinstance(value, SecretStr | SecretBytes):
        return _HIDDEN
    if isinstance(value, str):
        return _SECRET_SHAPE.sub(_HIDDEN, value)
    if isinstance(value, Mapping):
        return {
            key: _HIDDEN if _SECRET_NAME.search(str(key)) and inner is not None else mask(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [mask(inner) for inner in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return _SECRET_SHAPE.sub(_HIDDEN, str(value))


def _masked(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    return {name: value if name in ("timestamp", "exc_info") else mask({name: value})[name]
            for name, value in event.items()}  # fmt: skip


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events are masked whoever prints them.

    It does not depend on :func:`configure_logs`: structlog's own default prints the local variables
    of every frame of a traceback, tokens among them.
    """
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            _masked,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
    )
    return logger


def configure_logs(level: str, *, stream: TextIO | None = None) -> None:
    """Sets this process's logging up; called by programs, never by a library.

    HTTP clients log URLs, which may hold codes and keys in their query: they are heard from
    warnings on.
    """
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _masked,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number)
    for name in ("httpx", "httpcore", "dbos", "alembic", "uvicorn.access"):
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
