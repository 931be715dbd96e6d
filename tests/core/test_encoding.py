from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.encoding import b64url, load_object, lp, unb64url

FIELDS = st.lists(st.one_of(st.binary(max_size=6), st.text(max_size=4)), max_size=5)


def as_bytes(fields: list[bytes | str]) -> list[bytes]:
    return [field if isinstance(field, bytes) else field.encode() for field in fields]


@given(FIELDS, FIELDS)
def test_two_lists_of_fields_join_to_the_same_only_where_they_are_the_same(
    one: list[bytes | str], other: list[bytes | str]
) -> None:
    assert (lp(*one) == lp(*other)) == (as_bytes(one) == as_bytes(other))


@given(FIELDS)
def test_the_joined_fields_can_be_taken_apart_again(fields: list[bytes | str]) -> None:
    joined, found = lp(*fields), []
    while joined:
        end = 4 + int.from_bytes(joined[:4], "big")
        found.append(joined[4:end])
        joined = joined[end:]
    assert found == as_bytes(fields)


def test_moving_a_byte_between_fields_changes_the_result() -> None:
    assert lp("ab", "c") != lp("a", "bc") != lp("abc") != lp("", "abc")


def test_an_integer_is_its_decimal_digits() -> None:
    assert lp(0, 1_767_225_600_000) == b"\0\0\0\x010\0\0\0\x0d1767225600000"


@pytest.mark.parametrize("field", [-1, True, False])
def test_what_has_no_single_spelling_is_refused(field: int) -> None:
    with pytest.raises(ValueError, match="whole number"):
        lp(field)


@given(st.binary(max_size=80))
def test_base64url_round_trip(data: bytes) -> None:
    assert unb64url(b64url(data), length=len(data)) == data


@given(st.text(alphabet="AQgw_-+/=\n .é", max_size=8))
def test_whatever_decodes_is_spelled_as_it_would_be_encoded(text: str) -> None:
    try:
        data = unb64url(text)
    except ValueError:
        return
    assert b64url(data) == text


@pytest.mark.parametrize(
    "text",
    ["QQ==", "QR", "Q", "Q Q", "QQ\n", "+/8", "\ud800", "Ｑ", 5, None, b"QQ"],
    ids=repr,
)
def test_base64url_has_one_spelling(text: object) -> None:
    with pytest.raises(ValueError, match="base64url"):
        unb64url(text)


def test_base64url_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        unb64url(b64url(bytes(15)), length=16)


def test_a_document_is_read() -> None:
    assert load_object(b'{"a": [1, {"b": null}]}') == {"a": [1, {"b": None}]}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"a":1,"a":1}', "twice"),
        (b'{"a":{"b":1,"b":2}}', "twice"),
        (b'{"a":1.0}', "not whole"),
        (b'{"a":1e3}', "not whole"),
        (b'{"a":NaN}', "not whole"),
        (b'{"a":-Infinity}', "not whole"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"a":1} x', "not valid"),
        (b'{"a":1}{}', "not valid"),
        (b"{'a':1}", "not valid"),
        (b"", "not valid"),
        (b'{"a":"\xff"}', "not valid"),
        (b'\xef\xbb\xbf{"a":1}', "not valid"),
        ('{"a":1}'.encode("utf-16"), "not valid"),
        (b'{"a":' + b"9" * 5000 + b"}", "not valid"),
        (b'{"a":' * 200_000, "not valid"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_document_has_one_reading(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        load_object(raw)


def test_an_error_keeps_no_reference_to_the_document() -> None:
    with pytest.raises(ValueError, match="not valid JSON") as caught:
        load_object(b'{"token":"sesame"')
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert "sesame" not in str(caught.value)
