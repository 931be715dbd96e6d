"""What the durable engine may say: where something happened, and nothing of what it handled."""

from __future__ import annotations

import logging
from pathlib import Path

__all__ = ["silence"]

_log = logging.getLogger("aura_control.workflows")


class _Discreet(logging.Handler):
    """Says that the engine warned, and from which line; never its message.

    The engine writes arguments, results and database URLs into its messages. The place is enough
    to look up what happened, and a workflow's own steps log in their own words.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Logs the place of ``record`` and the type of its exception."""
        kind = record.exc_info[0] if record.exc_info else None
        _log.log(
            record.levelno,
            "The durable engine reports from %s:%d%s.",
            Path(record.pathname).name,
            record.lineno,
            f" ({kind.__name__})" if kind else "",
        )


def silence() -> None:
    """Takes the engine's output away from the console, before the engine puts it there."""
    library = logging.getLogger("dbos")
    library.propagate = False
    library.handlers = [_Discreet()]
