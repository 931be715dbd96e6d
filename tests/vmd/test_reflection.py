"""The search for the credential in answers: its laws, and what it searches for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.credentials import CredentialPayload, bind
from aura_core.errors import PermissionDenied
from aura_core.manifest import load_manifest
from aura_vmd.reflection import Search, needles
from tests.vmd.harness import basic, binding, credential

LETTERS = st.binary(max_size=40).map(lambda raw: bytes(b"ab"[b % 2] for b in raw))
SECRET = LETTERS.filter(lambda secret: len(secret) >= 2)


def passed_on(search: Search, pieces: list[bytes]) -> tuple[bytes, bool]:
    """What got out, and whether the end was reached."""
    out = b""
    try:
        for piece in pieces:
            out += search.feed(piece)
    except PermissionDenied:
        return out, False
    return out + search.rest(), True


@given(pieces=st.lists(LETTERS, max_size=8), secrets=st.lists(SECRET, min_size=1, max_size=3))
def test_an_answer_passes_whole_or_stops_before_the_secret(
    pieces: list[bytes], secrets: list[bytes]
) -> None:
    whole = b"".join(pieces)
    out, ended = passed_on(Search(tuple(secrets)), pieces)
    assert ended == (not any(secret in whole for secret in secrets))
    assert whole.startswith(out)
    assert not any(secret in out for secret in secrets)
    if ended:
        assert out == whole
    else:
        # Not even a beginning of it is out.
        first = min(whole.find(secret) for secret in secrets if secret in whole)
        assert len(out) <= first


@given(pieces=st.lists(st.binary(max_size=30), max_size=5))
def test_without_a_secret_everything_passes_at_once(pieces: list[bytes]) -> None:
    search = Search(())
    assert [search.feed(piece) for piece in pieces] == pieces


def payload(**changes: object) -> CredentialPayload:
    fields = changes.pop("fields", {"access_token": "a/token+that=is long"})
    bound = binding("https://api.example.com", **changes)
    return CredentialPayload.model_validate_json(
        credential(bound, fields=fields)  # type: ignore[arg-type]
    )


def test_secrets_are_searched_for_as_requests_spell_them() -> None:
    wanted = needles(payload())
    assert {
        b"a/token+that=is long",
        b"a%2Ftoken%2Bthat%3Dis%20long",
        b"a%2ftoken%2bthat%3dis%20long",
        b"a%2Ftoken%2Bthat%3Dis+long",
        b"a\\/token+that=is long",
    } <= set(wanted)


def test_user_names_and_short_values_are_not_searched_for() -> None:
    wanted = needles(
        payload(**basic(), fields={"username": "alice@example.com", "password": "short"})
    )
    assert not any(b"alice@example.com" in needle for needle in wanted)
    assert b"short" not in wanted
    assert wanted  # the pair of both is


def test_a_binding_says_which_fields_are_no_secret() -> None:
    manifest = load_manifest(
        b"""
        id = "keyed"
        name = "Keyed"
        category = "other"
        hosts = ["api.example.com"]
        [api]
        base_url = "https://api.example.com"
        [[auth]]
        strategy = "basic"
        fields = [
            { name = "account", label = "Account", secret = false },
            { name = "key", label = "Key" },
        ]
        placements = [{ at = "basic", username = "{account}", password = "{key}" }]
        """,
        source="keyed.toml",
    )
    assert bind(manifest, manifest.auth[0], {}).public_fields == ("account",)


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br"])
def test_an_encoding_that_cannot_be_looked_into_is_refused(encoding: str) -> None:
    with pytest.raises(PermissionDenied) as raised:
        Search((b"secret-secret",), encoding=encoding)
    assert raised.value.rule == "encoding"
