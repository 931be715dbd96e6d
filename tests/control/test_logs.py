"""Logs: JSON lines, without secrets, with or without a program that set them up."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr
from sqlalchemy.exc import IntegrityError

from aura_control.logs import configure_logs, get_logger, mask
from aura_core.errors import ProviderUnavailable

OWN = ("aura_control", "aura_core", "cloudinit_templates")

HIDDEN = "sw0rdfish-Xyz"
"""A secret of no known shape."""

SHAPES = [
    "Bearer abcdefgh12345678",
    "aura_" + "x" * 43,
    "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    "ya29.a0AfH6SMBx",
    "xoxb-1234567890-abc",
    "sk_live_4eC39HqLyjWDarjtT1",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a",
    "m1:active:" + "A" * 43,
]


@pytest.fixture
def lines() -> io.StringIO:
    """What a program would print."""
    stream = io.StringIO()
    configure_logs("debug", stream=stream)
    return stream


def test_a_line_that_cannot_be_written_shows_nothing(
    lines: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    lines.close()
    try:
        raise ValueError("sk-secret")
    except ValueError:
        logging.getLogger("somebody").exception("broken: %s", "sk-secret")
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""


def read(stream: io.StringIO) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return document


def test_an_event_is_a_json_object(lines: io.StringIO) -> None:
    get_logger("aura_control.test").info("connected", provider="acme", milliseconds=3)
    line = read(lines)
    assert (line["event"], line["provider"], line["level"]) == ("connected", "acme", "info")
    assert line["milliseconds"] == 3
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("secret", SHAPES)
def test_the_shape_of_a_secret_is_enough(lines: io.StringIO, secret: str) -> None:
    get_logger("aura_control.test").warning(
        "odd", detail=f"got {secret}, sorry", deep=[{"a": secret}]
    )
    logging.getLogger("library").warning("it said %s", secret)
    assert secret not in lines.getvalue()


def test_so_is_its_name(lines: io.StringIO) -> None:
    get_logger("aura_control.test").info(
        "odd", access_token="plain", headers={"Authorization": "plain"}, key=SecretStr("plain")
    )
    assert "plain" not in lines.getvalue()


class Checked(BaseModel):
    number: int


def in_a_key() -> None:
    dict[str, str]()[HIDDEN]


def in_a_statement() -> None:
    raise IntegrityError("INSERT INTO t VALUES (?)", (HIDDEN,), ValueError("unique"))


def in_a_url() -> None:
    request = httpx.Request("GET", f"https://api.example/?signature={HIDDEN}")
    httpx.Response(500, request=request).raise_for_status()


def in_what_was_checked() -> None:
    Checked.model_validate({"number": HIDDEN})


def in_a_cause() -> None:
    try:
        in_a_key()
    except KeyError as error:
        raise ProviderUnavailable("Acme did not answer.") from error


def in_a_group() -> None:
    raise ExceptionGroup(HIDDEN, [ValueError(HIDDEN), OSError(5, "Input/output error", HIDDEN)])


def in_its_words() -> None:
    raise RuntimeError({"access_token": HIDDEN}, HIDDEN.encode(), f"https://u:{HIDDEN}@db")


BROKEN = {
    in_a_key: "builtins.KeyError",
    in_a_statement: "sqlalchemy.exc.IntegrityError",
    in_a_url: "httpx.HTTPStatusError",
    in_what_was_checked: "ValidationError",
    in_a_cause: "ProviderUnavailable: Acme did not answer.",
    in_a_group: "builtins.OSError: Input/output error",
    in_its_words: "builtins.RuntimeError",
}


@pytest.mark.parametrize("logger", ["aura_control.test", "uvicorn.error", "asyncio"])
@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_an_exception_is_told_by_its_type_and_place(
    lines: io.StringIO, breaks: Callable[[], None], logger: str
) -> None:
    try:
        breaks()
    except Exception:
        logging.getLogger(logger).exception("broke")
        get_logger("aura_control.test").exception("broke")
    assert HIDDEN not in lines.getvalue()
    for text in lines.getvalue().splitlines():
        told = json.loads(text)["exception"]
        assert BROKEN[breaks] in told
        assert f" in {breaks.__name__}" in told


LIBRARIES = [
    "uvicorn.error", "uvicorn.access", "httpx", "httpcore.http11", "sqlalchemy.engine.Engine",
    "sqlalchemy.pool", "aiosqlite", "alembic.runtime.migration", "authlib", "asyncio",
    "a_plugin_of_somebody",
]  # fmt: skip


@pytest.mark.parametrize("name", LIBRARIES)
def test_what_a_library_puts_into_its_messages_is_not_printed(
    lines: io.StringIO, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = logging.getLogger(name)
    monkeypatch.setattr(library, "propagate", True)  # a server in another test turned it off
    # A handler that comes first leaves the whole message on the record.
    monkeypatch.setattr(library, "handlers", [logging.StreamHandler(io.StringIO())])
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        library.log(level, "parameters: %s %r", HIDDEN, {"a": HIDDEN})
        library.log(level, f"GET /callback?code={HIDDEN} Cookie: {HIDDEN}, 'api_key': '{HIDDEN}'")
        library.log(
            level, "it said", extra={"access_token": HIDDEN, "headers": {"x-api-key": HIDDEN}}
        )
    assert HIDDEN not in lines.getvalue()
    assert "parameters: %s %r" in lines.getvalue()


def test_our_own_messages_are_whole(lines: io.StringIO) -> None:
    logging.getLogger("aura_core.registry").warning("quarantined %s: %s", "acme", "no manifest")
    assert read(lines)["event"] == "quarantined acme: no manifest"


def test_other_spellings_of_a_secret_name(lines: io.StringIO) -> None:
    headers = {"X-Api-Key": HIDDEN, "Set-Cookie": HIDDEN, "Authorization": HIDDEN}
    log = get_logger("aura_control.test")
    log.info("odd", accessToken=HIDDEN, clientSecret=HIDDEN, headers=headers, raw=HIDDEN.encode())
    log.info("token=%s", HIDDEN)
    log.info(
        "odd", url=f"postgresql://aura:{HIDDEN}@db/aura", text=f'{{"client_secret": "{HIDDEN}"}}'
    )
    assert HIDDEN not in lines.getvalue()
    log.info("fine", exit_code=3, status_code=200, from_state="running")
    assert read(lines)["exit_code"] == 3
    assert read(lines)["from_state"] == "running"


def test_nothing_depends_on_a_program_to_be_masked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        get_logger("aura_control.test").info("odd", token="plain", detail=SHAPES[0])
    (record,) = caplog.records
    assert "plain" not in str(record.__dict__)
    assert SHAPES[0] not in str(record.__dict__)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ),
    st.sampled_from(SHAPES),
)
def test_masking_any_document_leaves_no_secret_and_stays_json(document: Any, secret: str) -> None:
    text = json.dumps(mask({"a": document, "b": [{"c": f"x {secret}"}]}))
    assert secret not in text
