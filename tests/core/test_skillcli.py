"""A skill's command line against a real socket, in this process and as the agent would run it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest

from aura_core import errors
from aura_core.skillcli import BrokerApi, main

TOOLS = '''
from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

from pydantic import BaseModel, Field

from aura_core.tools import ToolApi, tool


class Folder(Enum):
    INBOX = "inbox"
    SENT = "sent"


class Range(BaseModel):
    first: int
    last: int


@tool
async def mail_search(
    api: ToolApi,
    query: Annotated[str, Field(description="What to look for, 100% of it")],
    limit: int = 10,
    ratio: float | None = None,
    unread: bool = False,
    labels: list[str] | None = None,
    ids: list[int] = [],
    folder: Folder = Folder.INBOX,
    between: Range | None = None,
    extra: dict[str, Any] | None = None,
) -> Any:
    """Search the mail."""
    return {
        "query": query, "limit": limit, "ratio": ratio, "unread": unread, "labels": labels,
        "ids": ids, "folder": folder, "between": between, "extra": extra,
    }


@tool
async def mail_list(api: ToolApi, page_size: int = 5) -> Any:
    """List the mail."""
    return await api.get("/mail", query={"n": page_size, "tag": ["a b", "c"], "all": True})


@tool
async def mail_send(api: ToolApi, text: str) -> Any:
    """Send a mail."""
    return await api.post("https://upload.example.com/mail?x=1", json={"text": text})


@tool
async def mail_break(api: ToolApi) -> Any:
    """A tool with a mistake in it."""
    raise KeyError("oops")
'''


@dataclass
class Broker:
    """Answers every request alike, and keeps them."""

    socket: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Aura-Answered-By": "provider"})
    body: bytes = b'{"ok":true}'
    requests: list[dict[str, Any]] = field(default_factory=list)

    def problem(self, name: str, status: int = 403, **members: Any) -> None:
        self.status = status
        self.headers = {"Aura-Answered-By": "broker"}
        document = {"type": f"urn:aura:problem:{name}", "detail": "So it is.", **members}
        self.body = json.dumps(document).encode()


@pytest.fixture
def broker() -> Iterator[Broker]:
    folder = tempfile.mkdtemp(prefix="sk")
    found = Broker(socket=f"{folder}/s")

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            found.requests.append(
                {
                    "method": self.command,
                    "path": self.path,
                    "headers": {k.lower(): v for k, v in self.headers.items()},
                    "body": self.rfile.read(length),
                }
            )
            self.send_response(found.status)
            for name, value in found.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(found.body)))
            self.end_headers()
            self.wfile.write(found.body)

        do_GET = do_POST = do_DELETE = answer  # noqa: N815 - http.server looks for these

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def address_string(self) -> str:
            return "unix"

    with ThreadingUnixStreamServer(found.socket, Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()
    shutil.rmtree(folder)


@pytest.fixture
def skill(tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> str:
    facts = {"provider": "mailer", "name": "Mailer", "command": "mail"}
    (tmp_path / "skill.json").write_text(json.dumps(facts))
    (tmp_path / "tools.py").write_text(TOOLS)
    monkeypatch.setenv("AURA_BROKER_SOCKET", broker.socket)
    return str(tmp_path)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, json.loads(out) if code == 0 else out, err


def test_arguments_are_typed_by_the_tools_schema(
    skill: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--query", "from:me", "--limit", "3", "--ratio", "0.5", "--unread"]
    given += ["--labels", "a", "--labels", "b", "--ids", "1", "--ids", "2", "--folder", "sent"]
    given += ["--between", '{"first":1,"last":2}', "--extra", '{"deep":{"er":[1]}}']
    assert run(capsys, skill, "mail_search", *given)[:2] == (
        0,
        {
            "query": "from:me",
            "limit": 3,
            "ratio": 0.5,
            "unread": True,
            "labels": ["a", "b"],
            "ids": [1, 2],
            "folder": "sent",
            "between": {"first": 1, "last": 2},
            "extra": {"deep": {"er": [1]}},
        },
    )


def test_what_is_left_out_has_its_default(skill: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, found, _ = run(capsys, skill, "mail_search", "--query", "x", "--unread", "false")
    assert (found["limit"], found["unread"], found["labels"], found["folder"]) == (
        10,
        False,
        None,
        "inbox",
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["mail_search"],
        ["mail_search", "--query", "x", "--limit", "three"],
        ["mail_search", "--query", "x", "--unread", "perhaps"],
        ["mail_search", "--query", "x", "--between", "{"],
        ["mail_search", "--query", "x", "--between", "{}"],
        ["mail_search", "--query", "x", "--folder", "nowhere"],
        ["mail_search", "--query", "x", "--lim", "3"],
        ["mail_search", "--query", "x", "--nonsense", "3"],
        ["unknown_tool"],
        [],
        ["call", "GET"],
        ["call", "GET", "no-slash"],
        ["call", "GET", "/a b"],
    ],
)
def test_wrong_usage_is_exit_code_2(
    skill: str, broker: Broker, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, skill, *arguments)
    assert (code, out) == (2, "")
    assert err
    assert broker.requests == []


def test_help_lists_the_tools(skill: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([skill, "--help"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("mail_search", "Search the mail.", "mail_list", "call"))
    assert main([skill, "mail_search", "--help"]) == 0
    assert "100% of it" in capsys.readouterr().out


def test_a_tools_call_goes_to_the_broker(
    skill: str, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, skill, "mail_list", "--page-size", "7")[:2] == (0, {"ok": True})
    (request,) = broker.requests
    assert request["method"] == "GET"
    assert request["path"] == "/v1/mailer/mail?n=7&tag=a%20b&tag=c&all=true"
    assert "authorization" not in request["headers"]


def test_an_absolute_url_names_its_host(
    skill: str, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, skill, "mail_send", "--text", "hello")
    (request,) = broker.requests
    assert (request["method"], request["path"]) == ("POST", "/v1/mailer/mail?x=1")
    assert request["headers"]["aura-host"] == "upload.example.com"
    assert json.loads(request["body"]) == {"text": "hello"}


def test_any_other_call(skill: str, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["call", "delete", "/x?y=%20", "--json", '{"a":1}', "--host", "b.example"]
    assert run(capsys, skill, *arguments)[:2] == (0, {"ok": True})
    (request,) = broker.requests
    assert (request["method"], request["path"]) == ("DELETE", "/v1/mailer/x?y=%20")
    assert request["headers"]["aura-host"] == "b.example"
    assert request["headers"]["content-type"] == "application/json"
    assert request["body"] == b'{"a":1}'


def test_a_refusal_is_exit_code_1_with_its_rule(
    skill: str, broker: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    broker.problem("permission-denied", rule="scope:email:read", hint="Ask the owner.")
    code, out, err = run(capsys, skill, "mail_list")
    assert (code, out) == (1, "")
    assert err.splitlines() == ["So it is.", "rule: scope:email:read", "Ask the owner."]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("permission-denied", errors.PermissionDenied),
        ("not-found", errors.NotFound),
        ("invalid-input", errors.InvalidInput),
        ("message-too-large", errors.InvalidInput),
        ("credential-expired", errors.RefreshFailed),
        ("provider-unavailable", errors.ProviderUnavailable),
        ("of-a-newer-daemon", errors.ProviderUnavailable),
    ],
)
async def test_the_brokers_problems_are_our_errors(
    broker: Broker, name: str, expected: type[errors.AuraError]
) -> None:
    broker.problem(name, hint="Do this.")
    with pytest.raises(expected, match="So it is") as raised:
        await BrokerApi(provider="mailer", socket_path=broker.socket).get("/mail")
    assert raised.value.hint == "Do this."


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (400, errors.ProviderRejected),
        (401, errors.ReauthorizationRequired),
        (403, errors.ProviderRejected),
        (429, errors.RateLimited),
        (503, errors.ProviderUnavailable),
    ],
)
async def test_the_providers_own_problems_do_not_pass_for_the_brokers(
    broker: Broker, status: int, expected: type[errors.AuraError]
) -> None:
    broker.problem("permission-denied", status=status, rule="scope:email:read")
    broker.headers = {"Aura-Answered-By": "provider", "Retry-After": "7"}
    with pytest.raises(expected) as raised:
        await BrokerApi(provider="mailer", socket_path=broker.socket).get("/mail")
    assert getattr(raised.value, "retry_after", 7.0) == 7.0
    assert getattr(raised.value, "status", status) == status


async def test_calls_do_not_hold_up_each_other(broker: Broker) -> None:
    api = BrokerApi(provider="mailer", socket_path=broker.socket)
    found = await asyncio.gather(*(api.get(f"/{n}") for n in range(8)))
    assert found == [{"ok": True}] * 8


async def test_without_a_broker_it_says_so(tmp_path: Path) -> None:
    api = BrokerApi(provider="mailer", socket_path=str(tmp_path / "s"))
    with pytest.raises(errors.ProviderUnavailable, match="broker did not answer"):
        await api.get("/mail")


def test_a_tools_mistake_is_a_line_and_no_traceback(
    skill: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, skill, "mail_break")
    assert (code, err) == (1, "The tool failed: KeyError: 'oops'\n")


def test_a_folder_without_a_skill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "mail_list"]) == 1
    assert "no usable skill" in capsys.readouterr().err
    assert main([]) == 2


async def test_it_runs_isolated_and_leaves_nothing_in_the_folder(
    skill: str, broker: Broker
) -> None:
    # Isolated mode: neither the working directory nor PYTHONPATH, which are the agent's to set,
    # decide which code runs.
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-m", "aura_core.skillcli", skill, "mail_list",
        env={"AURA_BROKER_SOCKET": broker.socket, "PATH": os.environ["PATH"]},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b'{"ok":true}\n', b"")
    assert sorted(os.listdir(skill)) == ["skill.json", "tools.py"]
