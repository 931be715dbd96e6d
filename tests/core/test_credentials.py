"""Envelope, payload and binding: secrets show where they must, and travel with their bounds."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from pydantic import SecretStr, ValidationError

from aura_core.credentials import BrokerBinding, CredentialEnvelope, CredentialPayload, bind, fill
from aura_core.manifest import BEARER, Variable
from tests.core.providers import NOW, envelope, oauth_manifest

BINDING = BrokerBinding(
    provider="acme", base_url="https://a.example", hosts=("a.example",), placements=(BEARER,)
)


def payload(**changed: object) -> CredentialPayload:
    facts: dict[str, object] = {
        "connection_id": "c1",
        "provider": "acme",
        "connection_revision": 7,
        "fields": {"access_token": SecretStr("t0p-secret")},
        "binding": BINDING,
    }
    return CredentialPayload.model_validate({**facts, **changed})


def test_an_envelope_gives_typed_access() -> None:
    held = envelope(access_token="a", refresh_token="r")
    assert held.access_token == SecretStr("a")
    assert held.refresh_token == SecretStr("r")
    assert envelope(api_key="k").access_token is None


@pytest.mark.parametrize(("seconds", "expired"), [(-1, True), (0, True), (1, False), (None, False)])
def test_expiry(seconds: int | None, expired: bool) -> None:
    moment = None if seconds is None else NOW + timedelta(seconds=seconds)
    held = envelope(access_token="a").model_copy(update={"token_expiry": moment})
    assert held.is_expired(NOW) is expired


def test_secrets_do_not_show() -> None:
    held = envelope(access_token="t0p-secret").model_copy(
        update={"encrypted_access_token": "s3aled"}
    )
    for shown in (repr(held), str(held), f"{held}", repr(payload()), str(payload())):
        assert "t0p-secret" not in shown
        assert "s3aled" not in shown
    assert "t0p-secret" not in held.model_dump_json()
    assert "t0p-secret" not in repr(payload().model_dump())


def test_a_refused_value_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as caught:
        payload(connection_revision={"token": "t0p-secret"})
    assert "t0p-secret" not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        CredentialEnvelope.model_validate({"integration_id": ["t0p-secret"]})
    assert "t0p-secret" not in str(caught.value)


def test_a_payload_travels_whole() -> None:
    text = payload(expires_at=NOW, scopes=("a",)).model_dump_json()
    assert json.loads(text)["fields"] == {"access_token": "t0p-secret"}
    assert json.loads(text)["kind"] == "credential"
    assert CredentialPayload.model_validate_json(text) == payload(expires_at=NOW, scopes=("a",))
    with pytest.raises(ValidationError):
        CredentialPayload.model_validate_json(text[:-1] + ',"more":1}')


def test_filling_is_done_once() -> None:
    assert fill("{a}-{b}-{a}", {"a": "{b}", "b": "2"}) == "{b}-2-{b}"
    assert fill("no variables { }", {}) == "no variables { }"
    with pytest.raises(KeyError, match="c"):
        fill("{a}{c}", {"a": "1"})


def test_a_binding_is_filled_in() -> None:
    manifest = oauth_manifest(
        base_url="https://{shop}.acme.example/v1",
        hosts='["{shop}.acme.example", "{site}"]',
        api='headers = { X-Shop = "{shop}" }\nquery = { v = "{shop}" }',
        tables='[[auth.variables]]\nname = "shop"\n[[auth.variables]]\nname = "site"\nurl = true',
    )
    assert isinstance(manifest.auth_method().variables[0], Variable)
    values = {"shop": "mine", "site": "https://crm.example.com"}
    bound = bind(manifest, manifest.auth_method(), values)
    assert bound.base_url == "https://mine.acme.example/v1"
    assert bound.hosts == ("mine.acme.example", "crm.example.com")
    assert bound.headers == {"X-Shop": "mine"}
    assert bound.query == {"v": "mine"}
    with pytest.raises(KeyError):
        bind(manifest, manifest.auth_method(), {"shop": "mine"})
