"""Where calls may go and where the credential goes: each way to bend either is refused."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura_core.credentials import BrokerBinding
from aura_core.errors import InvalidInput, PermissionDenied
from aura_core.manifest import BEARER, Placement
from aura_core.placement import OutgoingRequest, place, resolve_target
from tests.core.providers import secrets

TOKEN = "t0ken-value"


def bound(*placements: Placement, **changed: Any) -> BrokerBinding:
    facts: dict[str, Any] = {
        "provider": "acme",
        "base_url": "https://api.acme.example/rest",
        "hosts": ("api.acme.example", "files.acme.example", "*.shop.acme.example"),
        "placements": placements or (BEARER,),
    }
    return BrokerBinding(**{**facts, **changed})


def send(
    binding: BrokerBinding,
    url: str = "/v1/things",
    *,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    **fields: str,
) -> OutgoingRequest:
    return place(
        binding,
        secrets(**(fields or {"access_token": TOKEN})),
        method=method,
        target=resolve_target(binding, url),
        headers=headers or {},
        body=body,
    )


@pytest.mark.parametrize(
    ("url", "host", "called"),
    [
        ("/v1", None, "https://api.acme.example/rest/v1"),
        ("/v1?a=1&a=2", None, "https://api.acme.example/rest/v1?a=1&a=2"),
        ("/v1", "files.acme.example", "https://files.acme.example/v1"),
        ("https://files.acme.example/v1%2Fx", None, "https://files.acme.example/v1%2Fx"),
        ("https://mine.shop.acme.example", None, "https://mine.shop.acme.example/"),
    ],
)
def test_targets(url: str, host: str | None, called: str) -> None:
    target = resolve_target(bound(), url, host=host)
    assert target.url == called
    assert target.on_base_host is called.startswith("https://api.")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("/v1", "evil.example"),
        ("/v1", "api.acme.example:443"),
        ("/v1", "API.acme.example"),
        ("/v1", "api.acme.example@evil.example"),
        ("https://evil.example/", None),
        ("https://evil.example/api.acme.example", None),
        ("https://api.acme.example.evil.example/", None),
        ("https://shop.acme.example/", None),
        ("https://a.b.shop.acme.example/", None),
        ("https://-.shop.acme.example/", None),
    ],
)
def test_other_hosts_are_refused(url: str, host: str | None) -> None:
    with pytest.raises(PermissionDenied) as caught:
        resolve_target(bound(), url, host=host)
    assert caught.value.rule == "host"


@pytest.mark.parametrize(
    "url",
    [
        "v1", "", "//evil.example", "http://api.acme.example/", "ftp://api.acme.example/",
        "https://u:p@api.acme.example/", "https://[::1", "/a/../b", "/a/./b", "/a/..", "/..;x/b",
        "/a/%2e%2E/b", "/a/.%2e/b", "/a%2f..%2fb", "/a%5c..%5cb", "/a\\b", "/a%252e", "/a%",
        "/a%zz",
        "/a b", "/a\tb", "/a\nb", "/a#b", "/a//b", "/a%2f%2fb", "/a%00", "/a%0d%0ab", "/ä", "/a?ü",
        "/a?b c", "/a?b#c",
    ],
)  # fmt: skip
def test_ambiguous_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        resolve_target(bound(), url)


SEGMENT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@settings(deadline=None)
@given(st.lists(SEGMENT, max_size=5).map(lambda parts: "/" + "/".join(parts)))
def test_any_path_is_on_the_host_or_refused(path: str) -> None:
    try:
        target = resolve_target(bound(), path)
    except InvalidInput:
        return
    parts = urlsplit(target.url)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("https", "api.acme.example", "")
    assert parts.path.startswith("/rest/")


def test_relocation_keeps_the_original_host_in_front() -> None:
    relocated = bound(relocations={"*": "http://127.0.0.1:9"})
    assert send(relocated).url == "http://127.0.0.1:9/api.acme.example/rest/v1/things"
    in_path = bound(
        Placement(at="path", name="token", format="bot{access_token}"),
        relocations={"*": "http://127.0.0.1:9"},
    )
    assert send(in_path).url == (f"http://127.0.0.1:9/api.acme.example/bot{TOKEN}/rest/v1/things")


def test_only_harmless_headers_are_forwarded() -> None:
    sent = {
        "Authorization": "Bearer mine",
        "Cookie": "a=b",
        "Host": "evil.example",
        "X-HTTP-Method-Override": "DELETE",
        "X-Forwarded-For": "1.1.1.1",
        "Transfer-Encoding": "chunked",
        "Accept": "text/plain",
        "If-Match": '"1"',
    }
    assert send(bound(), headers=sent).headers == {
        "accept": "text/plain",
        "if-match": '"1"',
        "authorization": f"Bearer {TOKEN}",
    }


@pytest.mark.parametrize(
    ("field", "header"),
    [("a\r\nX: y", {}), ("schlüssel", {}), (TOKEN, {"Accept": "a\nb"}), (TOKEN, {"Accept": "ü"})],
)
def test_headers_that_http_cannot_carry_are_refused(field: str, header: dict[str, str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        send(bound(), headers=header, access_token=field)
    assert field not in str(caught.value)


def test_the_manifests_headers_and_query_win() -> None:
    binding = bound(headers={"Accept": "application/json"}, query={"version": "2"})
    request = send(binding, "/v1?version=1&x=a%20b", headers={"accept": "text/html"})
    assert request.headers["accept"] == "application/json"
    assert parse_qsl(urlsplit(request.url).query) == [("x", "a b"), ("version", "2")]


def test_a_query_that_needs_nothing_is_passed_on_byte_for_byte() -> None:
    request = send(bound(), "/v1?a=%7e&b=1+2&&c")
    assert request.url.endswith("?a=%7e&b=1+2&&c")


@pytest.mark.parametrize("url", ["/v1?key=mine", "/v1?a=1&k%65y=mine"])
def test_nobody_takes_the_credentials_place_in_the_query(url: str) -> None:
    binding = bound(Placement(at="query", name="key", format="{access_token}"))
    with pytest.raises(InvalidInput):
        send(binding, url)
    assert send(binding, "/v1?a=1").url.endswith(f"?a=1&key={TOKEN}")


@pytest.mark.parametrize(
    ("url", "called"),
    [
        ("/v1/{token}/x%2Fy%3Fz%23", f"/rest/v1/{TOKEN}/x%2Fy%3Fz%23"),
        ("/v1/%7Btoken%7d/x", f"/rest/v1/{TOKEN}/x"),
        ("/v1", f"/{TOKEN}/rest/v1"),
    ],
)
def test_a_credential_in_the_path(url: str, called: str) -> None:
    binding = bound(Placement(at="path", name="token", format="{access_token}"))
    assert send(binding, url).url == "https://api.acme.example" + called


def test_a_credential_in_the_path_cannot_leave_its_segment() -> None:
    binding = bound(Placement(at="path", name="token", format="{access_token}"))
    assert "/a%2F..%3Fb/" in send(binding, access_token="a/..?b").url


@pytest.mark.parametrize(
    ("content_type", "body", "sent"),
    [
        ("application/json", b'{"a": 1}', {"a": 1, "key": TOKEN}),
        ("application/json", None, {"key": TOKEN}),
        ("application/x-www-form-urlencoded", b"a=1", {"a": "1", "key": TOKEN}),
    ],
)
def test_a_credential_in_the_body(
    content_type: str, body: bytes | None, sent: dict[str, Any]
) -> None:
    binding = bound(Placement(at="body", name="key", format="{access_token}"))
    request = send(binding, headers={"content-type": content_type}, body=body)
    text = (request.body or b"").decode()
    read = json.loads(text) if "json" in content_type else dict(parse_qsl(text))
    assert read == sent


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b'{"key": 1}'),
        ("application/json", b"[]"),
        ("application/json", b"no"),
        ("application/json", b"\xff"),
        ("application/json", b"[" * 100_000),
        ("application/x-www-form-urlencoded", b"k%65y=1"),
        ("application/x-www-form-urlencoded", b"\xff"),
        ("text/plain", b"x"),
    ],
)
def test_nobody_takes_the_credentials_place_in_the_body(content_type: str, body: bytes) -> None:
    binding = bound(Placement(at="body", name="key", format="{access_token}"))
    with pytest.raises(InvalidInput):
        send(binding, headers={"content-type": content_type}, body=body)


def test_a_prepared_request_shows_no_credential() -> None:
    binding = bound(BEARER, Placement(at="query", name="key", format="{access_token}"))
    assert TOKEN not in repr(send(binding))
