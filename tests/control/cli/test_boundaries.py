"""An agent's permissions on the command line: what options say, and how they read."""

from __future__ import annotations

import pytest
import typer

from aura_control.cli.boundaries import boundaries, described


def test_options_as_the_api_takes_them() -> None:
    limits = ["email:send=10/hour", "email:send=50/day", "files:read=7/hour"]
    assert boundaries(["b:c", "a:b"], limits, ["*.example.com"], 0) == {
        "scopes": ["a:b", "b:c"],
        "rate_limits": {
            "email:send": {"max_per_hour": 10, "max_per_day": 50},
            "files:read": {"max_per_hour": 7},
        },
        "allowed_domains": ["*.example.com"],
        "max_daily_token_spend": 0,
    }
    assert boundaries(None, None, None, None) == {"scopes": []}


@pytest.mark.parametrize(
    "text",
    ["email:send", "email:send=10", "email:send=10/week", "=1/day", "email:send=-1/day",
     "email=1/day", "email:send=1/hour "],
)  # fmt: skip
def test_a_limit_that_is_none(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="is not like"):
        boundaries(None, [text], None, None)


def test_lines_for_people() -> None:
    limits = ["email:send=10/hour", "email:send=50/day"]
    assert described(boundaries(["a:b"], limits, ["x.example"], 9)) == [
        "scopes: a:b",
        "email:send: at most 50 per day, 10 per hour",
        "domains: x.example",
        "tokens: at most 9 per day",
    ]
    assert described({"scopes": []}) == ["scopes: none"]
