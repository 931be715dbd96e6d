"""What a call cost, read from answers in the shapes that model providers give them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.manifest import TokenUsage
from aura_core.permissions import TokenReader

ANTHROPIC = TokenUsage.model_validate(
    {
        "path": "/v1/messages",
        "tokens": [
            ["usage.input_tokens", "message.usage.input_tokens"],
            ["usage.output_tokens", "message.usage.output_tokens"],
        ],
    }
)
OPENAI = TokenUsage(
    path="/v1/chat/completions", tokens=(("usage.prompt_tokens",), ("usage.completion_tokens",))
)


def events(*documents: Any, end: str = "\n") -> bytes:
    texts = [d if isinstance(d, str) else json.dumps(d) for d in documents]
    return "".join(f"event: x{end}data: {text}{end}{end}" for text in texts).encode()


ANTHROPIC_STREAM = events(
    {"type": "message_start", "message": {"usage": {"input_tokens": 25, "output_tokens": 1}}},
    {"type": "content_block_delta", "delta": {"text": 'the "usage": {"output_tokens": 9999}'}},
    {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 15}},
    {"type": "message_stop"},
)
OPENAI_STREAM = events(
    {"choices": [{"delta": {"content": "Hi"}}], "usage": None},
    {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 30, "total_tokens": 42}},
    "[DONE]",
)


def spent(usage: TokenUsage, body: bytes, kind: str = "application/json", **options: Any) -> int:
    reader = TokenReader(usage)
    reader.begin(kind)
    step = options.pop("step", len(body) or 1)
    for start in range(0, len(body), step):
        reader.feed(body[start : start + step])
    return reader.spent(**{"status": 200, "sent": 0, "complete": True, **options})


@pytest.mark.parametrize(
    ("usage", "body", "kind", "tokens"),
    [
        (ANTHROPIC, b'{"usage":{"input_tokens":25,"output_tokens":15}}', "application/json", 40),
        (ANTHROPIC, ANTHROPIC_STREAM, "text/event-stream; charset=utf-8", 40),
        (OPENAI, b'{"usage":{"prompt_tokens":12,"completion_tokens":30}}', "application/json", 42),
        (OPENAI, OPENAI_STREAM, "text/event-stream", 42),
        (OPENAI, b'{"usage":{"prompt_tokens":12}}', "application/json", 12),
    ],
)
def test_tokens_are_read(usage: TokenUsage, body: bytes, kind: str, tokens: int) -> None:
    assert spent(usage, body, kind) == tokens


@given(st.integers(min_value=1, max_value=40), st.sampled_from(["\n", "\r\n", "\r"]))
def test_pieces_and_line_ends_change_nothing(step: int, end: str) -> None:
    stream = ANTHROPIC_STREAM.replace(b"\n", end.encode())
    assert spent(ANTHROPIC, stream, "text/event-stream", step=step) == 40


def test_an_event_of_several_lines_is_one_document() -> None:
    stream = b'data: {"usage":\ndata: {"prompt_tokens": 3,\ndata: "completion_tokens": 4}}\n\n'
    assert spent(OPENAI, stream, "text/event-stream") == 7


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b"", b"not JSON", b"[" * 100_000, b'{"usage":{"prompt_tokens":"12"}}',
        b'{"usage":{"prompt_tokens":-5}}', b'{"usage":{"prompt_tokens":true}}',
        b'{"usage":{"prompt_tokens":1e99}}', b'{"usage":{"prompt_tokens":99999999999999}}',
    ],
)  # fmt: skip
def test_an_answer_that_reports_nothing_is_charged_by_length(body: bytes) -> None:
    assert spent(OPENAI, body, sent=300) == 1 + (300 + len(body)) // 3


def test_a_stream_that_asks_for_no_usage_is_no_way_around() -> None:
    silent = events(*({"choices": [{"delta": {"content": "word "}}]} for _ in range(100)))
    assert spent(OPENAI, silent, "text/event-stream") > 100


def test_hanging_up_early_is_no_way_around() -> None:
    half = ANTHROPIC_STREAM[: ANTHROPIC_STREAM.index(b"message_delta")]
    assert spent(ANTHROPIC, half, "text/event-stream", complete=False) > 40
    assert spent(ANTHROPIC, b"", "", status=None, sent=3000, complete=False) == 1001


def test_an_error_costs_what_it_reports() -> None:
    assert spent(OPENAI, b'{"error":{}}', status=429) == 0
    assert spent(OPENAI, b'{"usage":{"prompt_tokens":5}}', status=400) == 5


def test_what_is_too_long_to_parse_is_charged_by_length() -> None:
    body = b'{"usage":{"prompt_tokens":5},"x":"' + b"x" * (9 * 1024 * 1024) + b'"}'
    assert spent(OPENAI, body, step=64 * 1024) > 3_000_000


def test_a_manifest_may_name_one_path_or_several() -> None:
    one = TokenUsage.model_validate({"path": "/x", "tokens": ["a.b", ["c", "d.e"]]})
    assert one.tokens == (("a.b",), ("c", "d.e"))
    assert one.methods == ("POST",)
    wrong: Any
    for wrong in ([], [[]], ["a..b"], "a", [1]):
        with pytest.raises(ValueError, match="tokens"):
            TokenUsage.model_validate({"path": "/x", "tokens": wrong})
