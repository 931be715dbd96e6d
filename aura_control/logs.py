"""Logs: one JSON object a line on stderr, without secrets.

What is logged is said in our own words, with values that we name. What others say may hold
anything: of an exception that is not ours only the type and the places are printed, of a library's
message the template without its arguments, and that from warnings on.

Two more nets catch what should not have been logged at all: values under a name that sounds secret,
and text in the shape of a known secret. A ``SecretStr`` shows asterisks by itself.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, TextIO

import structlog
from pydantic import SecretStr

from aura_core.errors import AuraError

__all__ = ["configure_logs", "get_logger", "mask"]

_HIDDEN = "***"

_OWN = ("aura_control", "aura_core", "cloudinit_templates")
"""Loggers whose words are ours."""

_SECRET_WORD = (
    r"(?:tokens?|secrets?|passwords?|passwd|authorization|cookies?|api[_-]?keys?|verifier"
    r"|credentials?|private[_-]?keys?|master[_-]?keys?)"
)
_SECRET_NAME = re.compile(
    rf"{_SECRET_WORD}$|^(?:code|state|ticket|proof|user_data|exc_info|body)$", re.IGNORECASE
)

_SECRET_SHAPE = re.compile(
    r"(?i:\b(?:bearer|basic)\s+)[A-Za-z0-9+/=._~-]{8,}"
    r"|\baura_[A-Za-z0-9_-]{20,}"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|\b(?:ya29\.|1//|xox[abeprs]-|gh[opsur]_|github_pat_|sk[-_]|rk_|whsec_|AKIA|glpat-)"
    r"[A-Za-z0-9._/-]{8,}"
    r"|\bm[1-9][0-9]*:(?:active|decrypt_only):[A-Za-z0-9_-]{20,}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*"
    r"|(?<=://)[^/\s@]*:[^/\s@]*(?=@)"
    rf"|(?i:{_SECRET_WORD}[\"']?\s*[:=]\s*b?[\"']?)[^&\s\"',}}]+"
    r"|(?i:\b(?:code|state|ticket|proof|key)=)[^&\s\"']+"
)


def mask(value: Any) -> Any:
    """``value`` without what looks like a secret, at any depth."""
    if isinstance(value, SecretStr | bytes | bytearray):
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


def _discreet(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """A library's message without what it put in."""
    record: logging.LogRecord = event["_record"]
    event.pop("message", None)  # left on the record by another handler: the message, put together
    arguments = event.pop("positional_args", ())
    if arguments and record.name.partition(".")[0] in _OWN:
        event["event"] = str(event["event"]) % arguments
    return event


def _placed(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Exceptions by their types and places, with our own words and no others."""
    given = event.pop("exc_info", None)
    error = given[1] if isinstance(given, tuple) else given
    if isinstance(error, BaseException):
        event["exception"] = "\n".join(_lines(error, set()))
    return event


def _lines(error: BaseException, told: set[int]) -> Iterator[str]:
    told.add(id(error))
    kind = type(error)
    words = error.message if isinstance(error, AuraError) else None
    if isinstance(error, OSError):
        words = error.strerror  # the system's own, without the name that it was about
    yield f"{kind.__module__}.{kind.__qualname__}" + (f": {words}" if words else "")
    for frame in traceback.extract_tb(error.__traceback__):
        yield f"  {frame.filename}:{frame.lineno} in {frame.name}"
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for other in (*inner, *([before] if before else [])):
        if id(other) not in told:
            yield "with" if other in inner else "after"
            yield from _lines(other, told)


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
            structlog.stdlib.PositionalArgumentsFormatter(),
            _masked,
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        context_class=dict,
    )
    return logger


def configure_logs(level: str, *, stream: TextIO | None = None) -> None:
    """Sets this process's logging up; called by programs, never by a library."""
    number = logging.getLevelNamesMapping()[level.upper()]
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.ExtraAdder(),
                _discreet,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _placed,
                _masked,
                structlog.processors.JSONRenderer(),
            ],
            use_get_message=False,
            pass_foreign_args=True,
        )
    )
    # A line that cannot be written (a full disk, a closed stream) would otherwise have the standard
    # library print the record's arguments and traceback, which nobody masks.
    logging.raiseExceptions = False
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
    for name in _OWN:
        logging.getLogger(name).setLevel(number)
