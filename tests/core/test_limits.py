"""Counting against limits: never more than the limit in any window, and no longer than needed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.errors import LimitReached, PermissionDenied
from aura_core.manifest import TokenUsage
from aura_core.permissions import (
    DAY,
    TOKENS,
    AgentPermissions,
    Count,
    Counts,
    Decision,
    check,
    limits,
    minute_of,
)

START = datetime(2026, 3, 1, 12, 30, 10, tzinfo=UTC)
SEND = Decision(allowed=True, needs=("email:send",), rule="scope:email:send")
MODEL = Decision(
    allowed=True,
    needs=("api:outbound",),
    rule="scope:api:outbound",
    usage=TokenUsage(path="/v1/messages", tokens=(("usage.output_tokens",),)),
)


def permitted(hour: int | None = None, day: int | None = None) -> AgentPermissions:
    return AgentPermissions.model_validate(
        {"rate_limits": {"email:send": {"max_per_hour": hour, "max_per_day": day}}}
    )


class Caller:
    """Somebody who calls when told to, and keeps when each call was let through."""

    def __init__(self, permissions: AgentPermissions) -> None:
        self.permissions = permissions
        self.counts = Counts()
        self.made: list[datetime] = []

    def call(self, now: datetime) -> float:
        """Seconds to wait; 0 for a call that was let through."""
        try:
            check(limits(self.permissions, SEND), [self.counts], now=now)
        except LimitReached as error:
            return error.retry_after
        self.counts.add("email:send", minute_of(now), 1)
        self.made.append(now)
        return 0


def most_in(made: list[datetime], window: timedelta) -> int:
    return max((sum(last - window < at <= last for at in made) for last in made), default=0)


@given(
    st.lists(st.integers(min_value=0, max_value=5400), max_size=60),
    st.integers(min_value=1, max_value=6),
    st.integers(min_value=1, max_value=12),
)
def test_no_window_holds_more_than_the_limit(gaps: list[int], hour: int, day: int) -> None:
    caller, now = Caller(permitted(hour, day)), START
    for gap in gaps:
        now += timedelta(seconds=gap)
        wait = caller.call(now)
        if wait:
            # What the refusal says is true: a second earlier it would be refused, then it is not.
            assert Caller.call(again(caller), now + timedelta(seconds=wait - 1)) > 0
            assert Caller.call(again(caller), now + timedelta(seconds=wait)) == 0
    assert most_in(caller.made, timedelta(hours=1)) <= hour
    assert most_in(caller.made, timedelta(days=1)) <= day


def again(caller: Caller) -> Caller:
    other = Caller(caller.permissions)
    other.counts = Counts(caller.counts.since(0))
    return other


def test_there_is_no_second_helping_at_the_full_hour() -> None:
    caller = Caller(permitted(hour=10))
    late = START.replace(minute=59, second=59)
    assert [caller.call(late) for _ in range(10)] == [0] * 10
    assert caller.call(late + timedelta(seconds=2)) > 3000


def test_what_was_used_is_free_after_an_hour_and_a_minute_at_most() -> None:
    caller = Caller(permitted(hour=1))
    assert caller.call(START) == 0
    assert caller.call(START + timedelta(minutes=60)) > 0
    assert caller.call(START + timedelta(minutes=61)) == 0


@pytest.mark.parametrize(
    ("hour", "day", "rule"),
    [(1, None, "rate:email:send:hour"), (None, 1, "rate:email:send:day"),
     (1, 1, "rate:email:send:day")],
)  # fmt: skip
def test_a_refusal_names_the_limit_that_lasts_longest(
    hour: int | None, day: int | None, rule: str
) -> None:
    counts = Counts([Count("email:send", minute_of(START), 1)])
    with pytest.raises(LimitReached) as caught:
        check(limits(permitted(hour, day), SEND), [counts], now=START)
    assert caught.value.rule == rule
    assert "email:send" in caught.value.message
    assert "It may again in" in caught.value.message


def test_a_call_that_reads_in_two_ways_counts_for_both() -> None:
    both = Decision(allowed=True, needs=("api:outbound", "email:send"), rule="scope:api:outbound")
    assert [limit.what for limit in limits(permitted(5), both)] == ["email:send"]


def test_sources_are_added_up() -> None:
    minute = minute_of(START)
    here, there = (Counts([Count("email:send", minute, n)]) for n in (2, 3))
    check(limits(permitted(6), SEND), [here, there], now=START)
    with pytest.raises(LimitReached):
        check(limits(permitted(5), SEND), [here, there], now=START)


def test_spent_tokens_refuse_only_what_costs_tokens() -> None:
    permissions = AgentPermissions(max_daily_token_spend=1000)
    counts = Counts([Count(TOKENS, minute_of(START), 1000)])
    check(limits(permissions, SEND), [counts], now=START)
    with pytest.raises(LimitReached) as caught:
        check(limits(permissions, MODEL), [counts], now=START)
    assert caught.value.rule == "spend:day"
    assert 86000 < caught.value.retry_after <= 86460


def test_a_budget_of_nought_never_opens() -> None:
    permissions = AgentPermissions(max_daily_token_spend=0)
    with pytest.raises(PermissionDenied) as caught:
        check(limits(permissions, MODEL), [Counts()], now=START)
    assert caught.value.rule == "spend:day"
    assert not isinstance(caught.value, LimitReached)


def test_what_no_window_holds_is_forgotten() -> None:
    now = minute_of(START)
    counts = Counts(Count("a:b", now + n, 1) for n in (-DAY - 1, -DAY, 0, DAY, DAY + 1))
    counts.forget(now=now)
    assert [count.minute - now for count in counts.since(0)] == [-DAY, 0, DAY]


def test_nothing_is_taken_back_twice() -> None:
    counts = Counts([Count("a:b", 7, 1)])
    for _ in range(3):
        counts.add("a:b", 7, -1)
    counts.add("a:b", 7, 1)
    assert counts.of("a:b", since=0) == {7: 1}


@pytest.mark.parametrize(
    "document",
    [
        {"rate_limits": {"email": {"max_per_hour": 1}}},
        {"rate_limits": {"email:send": {}}},
        {"rate_limits": {"email:send": {"max_per_hour": 0}}},
        {"rate_limits": {"email:send": {"max_per_hour": True}}},
        {"rate_limits": {"email:send": {"max_per_hour": "5"}}},
        {"rate_limits": {"email:send": {"max_per_hour": 1.5}}},
        {"rate_limits": {"email:send": {"max_per_week": 1}}},
        {"rate_limits": {"email:send": {"max_per_day": 10**12 + 1}}},
        {"rate_limits": {f"a{n}:b": {"max_per_day": 1} for n in range(201)}},
        {"max_daily_token_spend": -1},
        {"max_daily_token_spend": "all"},
        {"allowed_domains": "example.com"},
        {"allowed_domains": ["a.example"] * 501},
    ],
)
def test_limits_have_a_form(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"rate_limits|max_daily|allowed_domains"):
        AgentPermissions.model_validate(document)


def test_an_old_policy_reads_as_one_without_limits() -> None:
    old = AgentPermissions.model_validate({"kind": "policy", "scopes": ["email:read"]})
    assert (old.rate_limits, old.allowed_domains, old.max_daily_token_spend) == ({}, None, None)
    assert AgentPermissions.model_validate_json(old.model_dump_json()) == old
