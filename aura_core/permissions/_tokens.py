"""How many tokens a call cost, read from its answer while that passes through."""

from __future__ import annotations

import json
import re
from typing import Any

from aura_core.manifest import TokenUsage, read_path

__all__ = ["TokenReader"]

_LARGEST_DOCUMENT = 8 * 1024 * 1024
_LARGEST_EVENT = 1024 * 1024
_MOST = 10**9
_BYTES_FOR_A_TOKEN = 3
_LINE_END = re.compile(rb"\r\n|\n|\r")


class TokenReader:
    """Reads one answer: JSON as a whole, or a stream of events line by line (WHATWG HTML §9.2.6).

    An answer that reports nothing is charged by its length, a token for three bytes sent and
    received, which is more than any model counts: otherwise an agent that asks for no usage (it is
    an option of some streams) or hangs up before the end would spend without limit.
    """

    def __init__(self, usage: TokenUsage) -> None:
        self._usage = usage
        self._streamed = False
        self._last: dict[int, int] = {}
        self._held = bytearray()
        self._event = bytearray()
        self._received = 0

    def begin(self, content_type: str) -> None:
        """An answer of this type begins."""
        self._streamed = content_type.partition(";")[0].strip().lower() == "text/event-stream"

    def feed(self, piece: bytes) -> None:
        """The next plain bytes of the answer."""
        self._received += len(piece)
        if not self._streamed:
            if len(self._held) <= _LARGEST_DOCUMENT:
                self._held += piece
            return
        self._held += piece
        start = 0
        for end in _LINE_END.finditer(self._held):
            # A CR that ends the piece may be half of a CRLF: it waits for what comes next.
            if end[0] == b"\r" and end.end() == len(self._held):
                break
            self._line(bytes(self._held[start : end.start()]))
            start = end.end()
        del self._held[:start]
        if len(self._held) > _LARGEST_EVENT:
            self._held.clear()

    def spent(self, *, status: int | None, sent: int, complete: bool) -> int:
        """Tokens of the call, once its answer is over. ``sent`` is the request's body in bytes;
        ``status`` is ``None`` where no answer came, ``complete`` whether all of it did."""
        if self._streamed:
            self._line(bytes(self._held))
            self._line(b"")
        elif len(self._held) <= _LARGEST_DOCUMENT:
            self._look(bytes(self._held))
        reported = sum(self._last.values())
        if self._last and complete:
            return reported
        if status is not None and status >= 300:
            return reported
        return max(reported, 1 + (sent + self._received) // _BYTES_FOR_A_TOKEN)

    def _line(self, line: bytes) -> None:
        if not line:
            if self._event:
                self._look(bytes(self._event))
                self._event.clear()
            return
        if line.startswith(b"data:") and len(self._event) + len(line) <= _LARGEST_EVENT:
            self._event += line[5:].removeprefix(b" ") + b"\n"

    def _look(self, text: bytes) -> None:
        if not any(_last_key(path) in text for paths in self._usage.tokens for path in paths):
            return  # parsing every piece of text that a model writes would be for nothing
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            return
        for number, paths in enumerate(self._usage.tokens):
            found = [value for path in paths if _is_count(value := read_path(document, path))]
            if found:
                self._last[number] = max(found)


def _last_key(path: str) -> bytes:
    return re.split(r"[.\[]", path)[-1].rstrip("]").encode()


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MOST
