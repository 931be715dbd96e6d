"""Environments: a provider's other hosts, checked when the manifest is read."""

from __future__ import annotations

import pytest

from aura_core.errors import ManifestError
from aura_core.manifest import load_manifest
from tests.core.test_manifest import API, HEAD, HOSTS, KEY, load

CHOSEN = '[[auth.variables]]\nname = "environment"\nchoices = ["eu"]\nrequired = false\n'


def test_an_environment_changes_prefixes_and_hosts() -> None:
    text = HEAD + HOSTS + API + KEY + 'verify = { url = "https://api.acme.example/me" }\n'
    text += CHOSEN + (
        '[[environments]]\nid = "eu"\nlabel = "Europe"\nhosts = ["api.acme.eu"]\n'
        'replaces = { "https://api.acme.example" = "https://api.acme.eu" }\n'
    )
    manifest = load(text)
    moved = manifest.in_environment("eu")
    assert moved.api.base_url == "https://api.acme.eu"
    assert moved.hosts == ("api.acme.eu",)
    assert moved.auth_method().verify is not None
    assert moved.auth_method().verify.url == "https://api.acme.eu/me"  # type: ignore[union-attr]
    assert manifest.in_environment(None) is manifest
    assert manifest.relocated("http://127.0.0.1:9").in_environment("eu").relocations
    with pytest.raises(KeyError):
        manifest.in_environment("moon")


@pytest.mark.parametrize(
    ("chosen", "environment", "key", "reason"),
    [
        (CHOSEN, {"to": "http://api.acme.eu"}, "environments[0].replaces", "plain http"),
        (CHOSEN, {"to": "https://me@api.acme.eu"}, "environments[0].replaces", "user-info"),
        (CHOSEN, {"of": "http://api.acme.example"}, "environments[0].replaces", "plain http"),
        (CHOSEN, {"hosts": "[]"}, "", "environments eu: .* api.acme.eu gets the credential"),
        ("", {}, "", "chosen by a variable"),
        (CHOSEN.replace("eu", "us"), {}, "", "chosen by a variable"),
        (CHOSEN, {"id": "us"}, "", "chosen by a variable"),
    ],
)
def test_an_environment_is_checked_when_it_is_read(
    chosen: str, environment: dict[str, str], key: str, reason: str
) -> None:
    facts = {
        "id": "eu",
        "of": "https://api.acme.example",
        "to": "https://api.acme.eu",
        "hosts": '["api.acme.eu"]',
        **environment,
    }
    text = HEAD + HOSTS + API + KEY + 'verify = { url = "https://api.acme.example/me" }\n' + chosen
    text += (
        '[[environments]]\nid = "{id}"\nlabel = "Europe"\nhosts = {hosts}\n'
        'replaces = {{ "{of}" = "{to}" }}\n'
    ).format(**facts)
    with pytest.raises(ManifestError, match=reason) as caught:
        load(text)
    assert caught.value.key.startswith(key)


def test_an_environment_on_loopback_is_the_operators_choice() -> None:
    text = (
        HEAD
        + HOSTS
        + API
        + KEY
        + CHOSEN
        + (
            '[[environments]]\nid = "eu"\nlabel = "Here"\nhosts = ["127.0.0.1:8000"]\n'
            'replaces = { "https://api.acme.example" = "http://127.0.0.1:8000" }\n'
        )
    )
    with pytest.raises(ManifestError, match="AURA_ALLOW_LOOPBACK_HTTP"):
        load(text)
    assert load_manifest(text.encode(), allow_loopback_http=True).in_environment("eu")
