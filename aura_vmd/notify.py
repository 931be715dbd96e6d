"""Telling systemd how the daemon is (sd_notify(3)); says nothing where nobody listens."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping

__all__ = ["Notifier"]

_log = logging.getLogger(__name__)


class Notifier:
    """Sends states to ``NOTIFY_SOCKET``, if there is one in ``environment``."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET")
        # "@" begins an abstract socket's name (unix(7)).
        self._address = "\0" + address[1:] if address and address[0] == "@" else address

    def say(self, state: str) -> None:
        """``READY=1``, ``STOPPING=1``, ``STATUS=...``. A failure is logged and nothing more."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                channel.sendto(state.encode(), self._address)
        except OSError as error:
            _log.warning("systemd was not told %s: %s", state, error.strerror)
