"""What durable work is written down as: JSON that comes back as it was, or a refusal."""

from __future__ import annotations

from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_control.workflows.durable_json import UnexpectedFailure, decode, encode
from aura_core.errors import AuraError, ComputeError, RateLimited, StaleRevision

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


class Colour(StrEnum):
    RED = "red"


class Vendors(ComputeError):
    """An error of a plugin's own."""


@given(JSON)
def test_a_json_value_comes_back_as_it_was(value: object) -> None:
    assert repr(decode(encode(value))) == repr(value)


@given(st.lists(JSON), st.dictionaries(st.text(), JSON))
def test_inputs_come_back_as_they_were(args: list[object], named: dict[str, object]) -> None:
    inputs = {"args": tuple(args), "kwargs": named}
    assert repr(decode(encode(inputs))) == repr(inputs)


@pytest.mark.parametrize(
    "value",
    [b"secret", ("secret",), {1: "secret"}, {"a": [object()]}, float("nan"), float("inf"),
     Colour.RED, {"secret"}],
)  # fmt: skip
def test_anything_else_is_refused_without_showing_it(value: object) -> None:
    with pytest.raises(TypeError) as raised:
        encode(value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        ComputeError("No capacity.", retryable=False, hint="Wait."),
        RateLimited("Slow down.", retry_after=2.5),
        StaleRevision("Old.", stored=7),
        AuraError("Plain."),
    ],
)
def test_an_error_of_ours_comes_back_with_its_facts(error: AuraError) -> None:
    back = decode(encode(error))
    assert type(back) is type(error)
    assert (str(back), vars(back), back.args) == (str(error), vars(error), error.args)


def test_a_plugins_error_comes_back_as_the_class_that_it_extends() -> None:
    back = decode(encode(Vendors("Full.", retryable=True)))
    assert type(back) is ComputeError
    assert back.retryable is True


def test_of_a_strange_error_only_the_type_is_kept() -> None:
    text = encode(ValueError("sk-secret"))
    assert "secret" not in text
    back = decode(text)
    assert isinstance(back, UnexpectedFailure)
    assert "ValueError" in str(back)
