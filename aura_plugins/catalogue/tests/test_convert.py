"""The manifests in the tree are what the facts say, and what the converter writes is TOML."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aura_plugin_catalogue import convert
from aura_plugin_catalogue.endpoints import authorization, refresh_tokens, token
from aura_plugin_catalogue.manifests import document
from aura_plugin_catalogue.writing import toml
from hypothesis import given
from hypothesis import strategies as st

from aura_core.errors import ManifestError
from aura_core.manifest import OAuth2Auth, load_manifest, template_variables
from aura_core.registry import Registry

_FOLDER = Path(convert.__file__).parent / "manifests"
_FACTS = Path(convert.__file__).parents[2] / "facts"


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return convert.files(_FACTS)


def test_the_tree_holds_what_the_facts_say(written: dict[str, str]) -> None:
    there = {
        path.relative_to(_FOLDER).as_posix(): path.read_text("utf-8")
        for path in _FOLDER.rglob("*")
        if path.is_file()
    }
    assert there.keys() == written.keys()
    assert [name for name, text in there.items() if text != written[name]] == []


def test_the_index_says_what_the_manifests_say(written: dict[str, str]) -> None:
    index = json.loads(written["index.json"])
    texts = {name: text for name, text in written.items() if name.endswith(".toml")}
    assert index == {name: tomllib.loads(text) for name, text in texts.items()}


def test_every_manifest_loads_strictly_and_lies_in_its_category(written: dict[str, str]) -> None:
    for name in written:
        if name.endswith(".toml"):
            manifest = load_manifest(_FOLDER / name)
            assert name == f"{manifest.category}/{manifest.id}.toml"


def test_every_provider_of_two_sources_is_there_or_shipped_by_a_plugin_of_its_own() -> None:
    facts = json.loads((_FACTS / "providers.json").read_text("utf-8"))
    renamed = {"x": "twitter"}
    wanted = {renamed.get(p["id"], p["id"]) for p in facts if p["independent_sources"] >= 2}
    listed = {line.id: line for line in Registry.discover().listings()}
    assert wanted <= listed.keys()
    assert [name for name in wanted if listed[name].status == "quarantined"] == []
    assert len(wanted) > 330


def test_the_operators_secret_goes_where_no_user_says(written: dict[str, str]) -> None:
    """A token endpoint gets the operator's client secret: its domain is the manifest's to name."""
    for name in written:
        if not name.endswith(".toml"):
            continue
        for method in load_manifest(_FOLDER / name).auth:
            if not isinstance(method, OAuth2Auth):
                continue
            open_to_any = {v.name for v in method.variables if not v.choices}
            urls = [method.token.url, method.refresh.url or method.token.url]
            urls += [method.revocation.url] if method.revocation else []
            for url in urls:
                first = url if url.startswith("{") else urlsplit(url).netloc
                domain = ".".join(first.split("/")[0].split(".")[-2:])
                assert not open_to_any & set(template_variables(domain)), f"{name}: {url}"


def test_what_only_one_source_names_is_marked() -> None:
    facts = _provider(verify={"method": "GET", "path": "/me", "sources": ["one"]})
    assert document(facts, {})["single_source"] == ["auth.oauth2.verify"]
    facts = _provider(verify={"method": "GET", "path": "/me", "sources": ["one", "two"]})
    assert "single_source" not in document(facts, {})
    facts = _provider(agreement={"authorize_and_token": 1, "sources": ["one"]})
    assert document(facts, {})["single_source"] == ["auth.oauth2"]


def test_what_cannot_be_declared_is_listed_with_the_reason() -> None:
    facts = _provider(strategy="aws_sigv4", id="sigv4")
    manifest = document(facts, {})
    assert manifest["status"] == "coming_soon"
    assert "Signature Version 4" in manifest["status_reason"]


def test_another_way_that_cannot_be_declared_is_left_out() -> None:
    facts = _provider()
    facts["auth"].append({"id": "app", "strategy": "app_installation", "agreement": {"any": 2}})
    facts["auth"].append(
        {
            "id": "key",
            "strategy": "api_key",
            "fields": [{"name": "api_key", "secret": True}],
            "placement": [{"in": "header", "name": "X-Key", "format": "{api_key}"}],
            "agreement": {"placement": 2},
        }
    )
    ways = [way.get("id", way["strategy"]) for way in document(facts, {})["auth"]]
    assert ways == ["oauth2", "key"]


def test_a_correction_that_does_not_fit_is_no_silence(tmp_path: Path) -> None:
    (tmp_path / "providers.json").write_text(json.dumps([_provider()]))
    (tmp_path / "corrections.toml").write_text("[acmee]\nfirst = 'oauth2'\n")
    with pytest.raises(ValueError, match="acmee"):
        convert.files(tmp_path)
    with pytest.raises(ManifestError, match="hostz"):
        document(_provider(), {"api": {"hostz": "x"}})


def test_deviations_of_oauth_become_their_keys() -> None:
    oauth = {
        "authorize_url": "https://a.example/authorize",
        "token_url": "https://a.example/token",
        "pkce": "unsupported",
        "scope_separator": ",",
        "client_id_param": "client_key",
        "token_method": "GET",
        "token_auth_methods": ["client_secret_basic", "client_secret_post"],
        "token_response": {"expires_path": "ends", "expires_is": "timestamp"},
        "refresh_token": "exchange",
        "refresh_params": {"grant_type": "trade", "old": "{access_token}"},
    }
    assert authorization(oauth) == {
        "url": "https://a.example/authorize",
        "renames": {"client_id": "client_key"},
        "scope_delimiter": ",",
        "pkce": "omit",
    }
    assert token(oauth) == {
        "url": "https://a.example/token",
        "method": "GET",
        "body": "query",
        "auth": "client_secret_basic",
        "also_accepts": ["client_secret_post"],
        "renames": {"client_id": "client_key"},
        "response": {"expires_path": "ends", "expires_kind": "epoch_seconds"},
    }
    assert refresh_tokens(oauth) == {
        "mode": "exchange",
        "token_param": "old",
        "params": {"grant_type": "trade"},
    }


def test_a_token_that_may_stay_is_given_no_end() -> None:
    oauth = {
        "token_url": "https://a.example/token",
        "lifetimes": {"access_s": 43200},
        "token_response": {"no_expires_in": True},
    }
    assert "response" not in token({**oauth, "refresh_token": "optional"})
    assert token({**oauth, "refresh_token": "rotating"})["response"] == {"assumed_lifetime": 43200}


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_PLAIN = st.one_of(_TEXT, st.booleans(), st.integers(-(2**63), 2**63 - 1))
_DOCUMENTS = st.dictionaries(
    _TEXT,
    st.recursive(
        _PLAIN,
        lambda inner: st.one_of(
            st.lists(_PLAIN, max_size=4),
            st.dictionaries(_TEXT, inner, max_size=4),
            st.lists(st.dictionaries(_TEXT, inner, max_size=3), max_size=3),
        ),
        max_leaves=12,
    ),
    max_size=5,
)


@given(document=_DOCUMENTS)
def test_what_is_written_reads_as_it_was(document: dict[str, Any]) -> None:
    assert tomllib.loads(toml(document)) == document


def _provider(**facts: Any) -> dict[str, Any]:
    way = {
        "id": "oauth2",
        "strategy": "oauth2",
        "oauth2": {
            "authorize_url": "https://acme.example/authorize",
            "token_url": "https://acme.example/token",
        },
        "agreement": {"authorize_and_token": 2, "sources": ["one", "two"]},
        **facts,
    }
    return {
        "id": "acme",
        "name": "Acme",
        "category": "testing",
        "api_base_url": "https://api.acme.example",
        "auth": [way],
        "independent_sources": 2,
    }
