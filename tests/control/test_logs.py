"""Logs: JSON lines, without secrets, with or without a program that set them up."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from aura_control.logs import configure_logs, get_logger, mask

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
def lines() -> Iterator[io.StringIO]:
    """What a program would print; logging is as before afterwards."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    stream = io.StringIO()
    configure_logs("info", stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def read(stream: io.StringIO) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(stream.getvalue().splitlines()[-1])
    return document


def test_an_event_is_a_json_object(lines: io.StringIO) -> None:
    get_logger("aura.test").info("connected", provider="acme", milliseconds=3)
    line = read(lines)
    assert (line["event"], line["provider"], line["level"]) == ("connected", "acme", "info")
    assert line["milliseconds"] == 3
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize("secret", SHAPES)
def test_the_shape_of_a_secret_is_enough(lines: io.StringIO, secret: str) -> None:
    get_logger("aura.test").warning("odd", detail=f"got {secret}, sorry", deep=[{"a": secret}])
    logging.getLogger("library").warning("it said %s", secret)
    assert secret not in lines.getvalue()


def test_so_is_its_name(lines: io.StringIO) -> None:
    get_logger("aura.test").info(
        "odd", access_token="plain", headers={"Authorization": "plain"}, key=SecretStr("plain")
    )
    assert "plain" not in lines.getvalue()


def test_a_traceback_shows_no_variables_and_no_secret(lines: io.StringIO) -> None:
    hidden = "a-value-of-no-known-shape"
    try:
        raise RuntimeError(f"https://x.example/?code={'c' * 30}&a=1 {len(hidden)}")
    except RuntimeError:
        get_logger("aura.test").exception("broke")
    line = read(lines)
    assert "RuntimeError" in line["exception"]
    assert hidden not in lines.getvalue().replace(f'hidden = "{hidden}"', "")
    assert "c" * 30 not in lines.getvalue()


def test_nothing_depends_on_a_program_to_be_masked(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        get_logger("aura.test").info("odd", token="plain", detail=SHAPES[0])
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
