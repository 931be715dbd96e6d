"""The command line's view of a control plane: its HTTP surface, nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aura_control.cli.output import ExitCode, Output

if TYPE_CHECKING:
    import httpx

__all__ = ["Remote", "Session", "read_session", "write_session"]


@dataclass(frozen=True, kw_only=True)
class Session:
    """Where a control plane is and the API token for it."""

    url: str
    token: str = field(repr=False)


def write_session(data_dir: Path, session: Session) -> Path:
    """Keep the session beside the data, readable by its owner only; answers the file."""
    path = data_dir / "session.json"
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as handle:
        json.dump({"url": session.url, "token": session.token}, handle)
    temporary.replace(path)
    return path


def read_session(data_dir: Path, environment: Mapping[str, str] = os.environ) -> Session | None:
    """The session of a running `aura up`, from the environment or from beside its data."""
    url, token = environment.get("AURA_URL"), environment.get("AURA_TOKEN")
    if url and token:
        return Session(url=url, token=token)
    try:
        document = json.loads((data_dir / "session.json").read_text())
        return Session(url=url or document["url"], token=token or document["token"])
    except (OSError, ValueError, KeyError):
        return None


class Remote:
    """Calls to the control plane; a problem document becomes an exit with its words."""

    def __init__(self, session: Session | None, output: Output) -> None:
        if session is None:
            raise output.fail(
                {
                    "title": "No control plane is known.",
                    "hint": "Start one with 'aura up', or set AURA_URL and AURA_TOKEN.",
                },
                ExitCode.USAGE,
            )

        self.output = output
        self.session = session

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One call; answers the JSON document (``None`` for an empty answer)."""
        import httpx

        try:
            with self._client() as http:
                response = http.request(method, path, **options)
            if not response.is_error:
                return response.json() if response.content else None
        except (httpx.TransportError, httpx.InvalidURL, ValueError) as error:
            raise self._unreachable(error) from None
        raise self._refused(response)

    @contextmanager
    def events(self, path: str, *, last_event_id: str | None = None) -> Iterator[Iterator[Any]]:
        """Server-sent events as they come; each is ``(id, kind, data)``."""
        import httpx

        headers = {"Accept": "text/event-stream"}
        if last_event_id is not None:
            headers["Last-Event-ID"] = last_event_id
        timeout = httpx.Timeout(60.0, connect=5.0)
        try:
            with (
                self._client() as http,
                http.stream("GET", path, headers=headers, timeout=timeout) as response,
            ):
                if response.is_error:
                    response.read()
                    raise self._refused(response)
                yield _parse_events(response.iter_lines())
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None

    def _client(self) -> httpx.Client:
        import httpx  # here, so that commands that call nobody start without it

        return httpx.Client(
            base_url=self.session.url,
            headers={"Authorization": f"Bearer {self.session.token}"},
            timeout=httpx.Timeout(30.0, connect=5.0),
        )

    def _unreachable(self, error: Exception) -> Exception:
        return self.output.fail(
            {
                "title": f"There is no control plane at {self.session.url}"
                f" ({type(error).__name__}).",
                "hint": "Is 'aura up' running? Is AURA_URL right?",
            },
            ExitCode.UNREACHABLE,
        )

    def _refused(self, response: httpx.Response) -> Exception:
        if response.headers.get("content-type") != "application/problem+json":
            return self._unreachable(ValueError(response.status_code))
        problem = response.json()
        code = ExitCode.REFUSED if response.status_code in (401, 403) else ExitCode.FAILED
        return self.output.fail(problem, code)


def _parse_events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """Server-sent events (WHATWG HTML §9.2.6): ``id``, ``event`` and ``data`` fields."""
    identifier, kind, data = "", "message", [""][:0]
    for line in lines:
        if line == "":
            if data:
                yield identifier, kind, json.loads("\n".join(data))
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            identifier = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)
