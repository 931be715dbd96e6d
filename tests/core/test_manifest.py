"""Manifests: what is refused and how it is said, templates, hosts, relocation."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aura_core.errors import ManifestError
from aura_core.manifest import (
    Manifest,
    Variable,
    is_public_host,
    load_manifest,
    read_path,
    relocate,
    snake_case,
    template_variables,
    wrong_value,
)

HEAD = 'id = "acme"\nname = "Acme"\ncategory = "tests"\n'
HOSTS = 'hosts = ["api.acme.example"]\n'
API = '[api]\nbase_url = "https://api.acme.example"\n'
KEY = '[[auth]]\nstrategy = "api_key"\n'
OAUTH = """[[auth]]
strategy = "oauth2"
client = { id_env = "A" }
authorization = { url = "https://a.example/authorize" }
token = { url = "https://a.example/token", auth = "none" }
"""
PLACED = 'placements = [{ at = "header", name = "K", format = "{client_secret}" }]\n'
SKILL = '[skill]\ndir_name = "acme"\ncommand = "acme"\ndescription = "Does it all."\n'


def load(text: str) -> Manifest:
    return load_manifest(text.encode(), source="acme.toml")


def test_a_small_manifest() -> None:
    manifest = load(HEAD + HOSTS + API + KEY)
    assert manifest.auth_method().strategy == "api_key"
    assert manifest.auth_method("api_key") is manifest.auth_method()
    with pytest.raises(KeyError):
        manifest.auth_method("oauth2")
    with pytest.raises(ValidationError):
        manifest.name = "Other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "key", "reason"),
    [
        ("id = ", "", "is not TOML"),
        ("\xff", "", "is not UTF-8"),
        (HEAD + HOSTS + KEY, "api", "is missing"),
        (HEAD + HOSTS + 'catagory = "x"\n' + API + KEY, "catagory", "Did you mean 'category'"),
        (HEAD + HOSTS + API + KEY + "veryfy = {}\n", "auth[0].veryfy", "Did you mean 'verify'"),
        (
            HEAD + HOSTS + API + OAUTH.replace("token = { url", "token = { uri"),
            "auth[0].token.uri",
            "Did you mean 'url'",
        ),
        (HEAD + HOSTS + API + '[[auth]]\nstrategy = "magic"\n', "auth[0]", "magic"),
        (HEAD + HOSTS + API, "auth", "is missing"),
        (HEAD.replace("acme", "Ac me") + HOSTS + API + KEY, "id", "pattern"),
        (HEAD + HOSTS + "relocations = {}\n" + API + KEY, "relocations", "not a key"),
        (HEAD + HOSTS + API.replace("https", "http") + KEY, "api.base_url", "plain http"),
        (HEAD + HOSTS + API.replace("api.", "me@api.") + KEY, "api.base_url", "user-info"),
        (HEAD + HOSTS + API.replace("api.", "a b.") + KEY, "api.base_url", "white space"),
        (HEAD + HOSTS + API.replace("api.", "{Shop}.") + KEY, "api.base_url", "malformed"),
        (HEAD + 'hosts = ["API.acme.example"]\n' + API + KEY, "hosts[0]", "lower-case"),
        (HEAD + 'hosts = ["*.example"]\n' + API + KEY, "hosts[0]", "too wide"),
        (HEAD + HOSTS + API + KEY + KEY, "", "give each an id"),
        (HEAD + HOSTS + 'status = "coming_soon"\n' + API + KEY, "", "status_reason"),
        (HEAD + 'hosts = ["{shop}.acme.example"]\n' + API + KEY, "", "must be one of variables"),
        (
            HEAD + HOSTS + API.replace("api.acme", "{api_key}.acme") + KEY,
            "",
            "must be one of variables",
        ),
        (
            HEAD + HOSTS + API + KEY + 'verify = { url = "https://other.example/me" }\n',
            "",
            "other.example gets the credential but is not in hosts",
        ),
        (
            HEAD
            + HOSTS
            + API
            + KEY
            + 'placements = [{ at = "query", name = "k", format = "{x}" }]',
            "",
            "{x} is no part of the credential",
        ),
        (
            HEAD + HOSTS + API + OAUTH + 'refresh = { params = { a = "{nothing}" } }\n',
            "",
            "{nothing} is not declared",
        ),
        (
            HEAD + HOSTS + API + KEY + '[[tools]]\nname = "echo"\ndescription = "Say it."\n',
            "tools[0].description",
            "at least 8",
        ),
        (
            HEAD
            + HOSTS
            + API
            + OAUTH
            + 'placements = [{ at = "query", name = "k", format = "{redirect_uri}" }]\n',
            "",
            "{redirect_uri} is no part of the credential",
        ),
        (
            HEAD + HOSTS + API + KEY + '[[auth.variables]]\nname = "pin"\npattern = "["\n',
            "auth[0].variables[0].pattern",
            "is not a regular expression",
        ),
        (
            HEAD + HOSTS + API + OAUTH.replace(', auth = "none"', ""),
            "auth[0]",
            "needs client.secret_env",
        ),
        (
            HEAD
            + HOSTS
            + API.replace("https://api.acme.example", "{site}/v1")
            + KEY
            + '[[auth.variables]]\nname = "site"\n',
            "",
            "needs url = true",
        ),
        (
            HEAD + HOSTS + API + KEY + '[[auth.variables]]\nname = "pin"\nsecret = true\n',
            "auth[0].variables[0].secret",
            "is not a key",
        ),
        (
            HEAD + HOSTS + API + OAUTH + PLACED + SKILL,
            "",
            "a skill's machine would hold the OAuth client's secret",
        ),
        (
            HEAD + HOSTS + API + KEY + '[[tools]]\nname = "echo"\ndescription = "Say it again."\n',
            "",
            "needs tools_module",
        ),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(text: str, key: str, reason: str) -> None:
    data = text.encode("latin-1") if text == "\xff" else text.encode()
    with pytest.raises(ManifestError) as caught:
        load_manifest(data, source="acme.toml")
    assert str(caught.value).startswith("acme.toml")
    assert caught.value.key == key
    assert reason in str(caught.value)


def test_loopback_http_is_the_operators_choice() -> None:
    text = (HEAD + HOSTS + API + KEY).replace("https://api.acme.example", "http://127.0.0.1:8000")
    with pytest.raises(ManifestError, match="AURA_ALLOW_LOOPBACK_HTTP"):
        load(text)
    manifest = load_manifest(text.encode(), allow_loopback_http=True)
    assert manifest.api.base_url == "http://127.0.0.1:8000"


def test_a_manifest_has_a_size() -> None:
    with pytest.raises(ManifestError, match="larger than"):
        load(HEAD + "# " + "x" * 300_000)


@settings(deadline=None)
@given(st.text())
def test_any_text_is_a_manifest_or_an_error_of_ours(text: str) -> None:
    with pytest.raises(ManifestError):
        load_manifest(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", {"b": [1, {"c-d": 2}]}),
        ("a.b[0]", 1),
        ("a.b[1].c-d", 2),
        ("a.b[2]", None),
        ("a.b.c", None),
        ("x.y", None),
        ("[0]", None),
    ],
)
def test_paths(path: str, found: object) -> None:
    assert read_path({"a": {"b": [1, {"c-d": 2}]}}, path) == found


def test_a_path_may_begin_in_a_list() -> None:
    assert read_path([{"id": "x"}], "[0].id") == "x"


def test_names() -> None:
    assert list(template_variables("https://{a}.x/{b_1}/{C}{a}")) == ["a", "b_1", "a"]
    assert [snake_case(n) for n in ("realmId", "accounts-server", "shop", "X-Shop-ID")] == [
        "realm_id", "accounts_server", "shop", "x_shop_id"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("url", "located"),
    [
        ("https://api.acme.example/v1?x=1#f", "http://127.0.0.1:9/api.acme.example/v1?x=1#f"),
        ("https://any.host.example", "http://127.0.0.1:9/any.host.example"),
        ("https://h.example:8443/", "http://127.0.0.1:9/h.example:8443/"),
    ],
)
def test_a_relocated_manifest_leads_nowhere_else(url: str, located: str) -> None:
    manifest = load(HEAD + HOSTS + API + KEY).relocated("http://127.0.0.1:9/")
    assert manifest.locate(url) == located
    assert relocate({}, url) == url
    assert (
        relocate({"api.acme.example": "http://x"}, "https://b.example/c") == "https://b.example/c"
    )


LABEL = Variable(name="shop")
URL = Variable(name="site", url=True)
ANSWERED = Variable(name="site", url=True, provided_by="token_response")


@pytest.mark.parametrize(
    ("variable", "value", "fine"),
    [
        (LABEL, "my-shop1", True),
        (LABEL, "", False),
        (LABEL, "-shop", False),
        (LABEL, "a.b", False),
        (LABEL, "shop/", False),
        (LABEL, "shop@evil", False),
        (LABEL, "shop#", False),
        (LABEL, "shop?", False),
        (LABEL, "sh op", False),
        (LABEL, "shöp", False),
        (LABEL, "*", False),
        (LABEL, "{api_key}", False),
        (LABEL, "x" * 64, False),
        (Variable(name="v", choices=("eu", "us")), "eu", True),
        (Variable(name="v", choices=("eu", "us")), "uk", False),
        (Variable(name="v", pattern=r"[0-9]+"), "42", True),
        (Variable(name="v", pattern=r"[0-9]+"), "42\n", False),
        (Variable(name="v", pattern=r".*"), "a/b", False),
        (Variable(name="v", pattern=r".*"), "a@b", False),
        (Variable(name="host", pattern=r"[a-z0-9.]+"), "shop.example.com", True),
        (Variable(name="host", pattern=r"[a-z0-9.]+"), "169.254.169.254", False),
        (Variable(name="host", pattern=r"[a-z0-9.]+"), "127.0.0.1", False),
        (Variable(name="host", pattern=r"[a-z0-9.]+"), "metadata.internal", False),
        (URL, "https://a.acme.example", True),
        (URL, "https://a.acme.example/", True),
        (URL, "https://a.acme.example/path", False),
        (URL, "http://a.acme.example", False),
        (URL, "https://A.acme.example", False),
        (URL, "https://evil.example", False),
        (URL, "https://a.acme.example:8443", False),
        (URL, "https://a.acme.example@evil.example", False),
        (URL, "https://10.0.0.1", False),
        (URL, "https://[::1]", False),
        (URL, "https://", False),
        (ANSWERED, "https://a.acme.example/rest/v2", True),
        (ANSWERED, "https://a.acme.example/../v2", False),
        (ANSWERED, "https://a.acme.example/a?b=c", False),
        (ANSWERED, "https://a.acme.example//x", False),
    ],
)
def test_values_of_variables(variable: Variable, value: str, fine: bool) -> None:
    reason = wrong_value(variable, value, hosts=["*.acme.example"])
    assert (reason is None) is fine
    assert reason is None or len(value) < 3 or value not in reason


def test_a_users_own_server_may_be_anywhere_public() -> None:
    assert wrong_value(URL, "https://crm.customer.example", hosts=["{site}"]) is None
    assert wrong_value(URL, "https://localhost", hosts=["{site}"]) is not None


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("api.example.com", True),
        ("8.8.8.8", True),
        ("localhost", False),
        ("printer", False),
        ("127.1", False),
        ("0x7f.1", False),
        ("2130706433", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("[fd00::1]", False),
        ("::1", False),
        ("nas.local", False),
        ("nas.local.", False),
        ("metadata.google.internal", False),
    ],
)
def test_public_hosts(host: str, public: bool) -> None:
    assert is_public_host(host) is public
