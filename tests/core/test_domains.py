"""Allowed domains: whatever way a host is spelled, the rule sees the one it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura_core.credentials import BrokerBinding
from aura_core.errors import AuraError, PermissionDenied
from aura_core.manifest import BEARER
from aura_core.permissions import (
    AgentPermissions,
    canonical_host,
    canonical_pattern,
    host_of,
    is_within,
    require,
)
from aura_core.placement import resolve_target


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("api.example.com", "api.example.com"),
        ("API.Example.COM", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("api\u3002example.com", "api.example.com"),
        ("ａｐｉ.example.com", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("*.Example.com.", "*.example.com"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:DB8::1]", "2001:db8::1"),
        ("2001:db8:0:0::1", "2001:db8::1"),
        ("localhost", "localhost"),
        ("_dmarc.example.com", "_dmarc.example.com"),
    ],
)
def test_one_spelling(text: str, canonical: str) -> None:
    assert canonical_pattern(text) == canonical
    assert canonical_pattern(canonical) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "*", "*.com", "*.", "", ".", "a..b", ".example.com", "example.com..", "*.*.example.com",
        "a.*.example.com", "ex*mple.com", "https://example.com", "example.com/", "example.com:443",
        "user@example.com", "example.com?x", "example.com#x", "exa mple.com", "example.com\n",
        "%65xample.com", "example%2ecom", "exam\\ple.com", "-a.example", "a-.example",
        "127.1", "0177.0.0.1", "017700000001", "0x7f000001", "0x7f.1", "2130706433", "1.2.3.4.5",
        "1.2.3.256", "*.192.0.2.1", "[::1", "::1]", "xn--a.example", "xn--\u00fc.example",
        "a" * 64 + ".example", ".".join(["a" * 60] * 5), "\u202eexample.com", "exa\u00admple\u0000",
    ],
)  # fmt: skip
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is (not|a number|too wide)"):
        canonical_pattern(text)
    with pytest.raises(ValueError, match="allowed_domains"):
        AgentPermissions.model_validate({"allowed_domains": [text]})


@pytest.mark.parametrize(
    ("host", "within"),
    [
        ("example.com", False),
        ("api.example.com", True),
        ("a.b.example.com", True),
        ("badexample.com", False),
        ("example.com.evil.example", False),
        ("exact.test", True),
        ("sub.exact.test", False),
    ],
)
def test_exact_and_below(host: str, within: bool) -> None:
    assert is_within(host, ("*.example.com", "exact.test")) is within


def test_a_homograph_is_another_domain() -> None:
    cyrillic = "\u0430pi.example.com"  # its first letter only looks like an a
    assert canonical_host(cyrillic).startswith("xn--")
    assert not is_within(canonical_host(cyrillic), ("api.example.com",))


def test_a_list_names_each_domain_once_and_in_order() -> None:
    found = AgentPermissions(allowed_domains=("B.example", "a.example", "b.example."))
    assert found.allowed_domains == ("a.example", "b.example")


HOSTS = ("api.example.com", "*.files.example.com", "xn--bcher-kva.example", "127.0.0.1:8080")
BINDING = BrokerBinding(
    provider="acme", base_url="https://api.example.com", hosts=HOSTS, placements=(BEARER,)
)


def called(url: str, *domains: str) -> str:
    """The host that a call would go to, or the rule that refuses it."""
    permissions = AgentPermissions(
        scopes=frozenset({"api:outbound"}), allowed_domains=tuple(domains)
    )
    try:
        target = resolve_target(BINDING, url)
        require(BINDING, permissions, method="GET", target=target)
    except PermissionDenied as error:
        return error.rule
    except AuraError:
        return "invalid"
    return target.host


@pytest.mark.parametrize(
    ("url", "domains", "outcome"),
    [
        ("/x", ["api.example.com"], "api.example.com"),
        ("/x", ["API.EXAMPLE.COM."], "api.example.com"),
        ("/x", [], "domain:api.example.com"),
        ("/x", ["*.example.com"], "api.example.com"),
        ("/x", ["*.api.example.com"], "domain:api.example.com"),
        ("https://a.files.example.com/x", ["api.example.com"], "domain:a.files.example.com"),
        ("https://a.files.example.com/x", ["*.files.example.com"], "a.files.example.com"),
        ("https://xn--bcher-kva.example/x", ["bücher.example"], "xn--bcher-kva.example"),
        ("https://127.0.0.1:8080/x", ["127.0.0.1"], "127.0.0.1:8080"),
        ("https://127.0.0.1:8080/x", ["api.example.com"], "domain:127.0.0.1"),
    ],
)
def test_the_rule_of_domains(url: str, domains: list[str], outcome: str) -> None:
    assert called(url, *domains) == outcome


@pytest.mark.parametrize(
    "host",
    [
        "api.example.com.", "API.example.com", "api.example.com:443",
        "api.example.com@evil.example",
        "evil.example@api.example.com", "api%2eexample.com", "%61pi.example.com",
        "\u0430pi.example.com", "api.example.com\\.evil.example", "api.example.com%00.evil.example",
        "bücher.example", "0x7f.1:8080", "0177.0.0.1:8080", "2130706433:8080", "127.1:8080",
        "127.0.0.1.:8080", "[::ffff:127.0.0.1]:8080", "a.b.files.example.com",
    ],
)  # fmt: skip
def test_no_spelling_gets_around_the_manifest(host: str) -> None:
    """Not even where everything is an allowed domain: the manifest's hosts are compared as text."""
    everything = ("*.example.com", "*.evil.example", "127.0.0.1", "bücher.example")
    assert called(f"https://{host}/x", *everything) in ("host", "invalid")


@given(st.text(max_size=40))
def test_what_is_within_is_spelled_the_one_way(text: str) -> None:
    """Whatever text passes as a host, is not let in unless its one spelling is a listed one."""
    host = host_of(text)
    if host is None:
        return
    assert canonical_host(host) == host
    if is_within(host, ("api.example.com", "*.files.example.com")):
        assert host == "api.example.com" or host.endswith(".files.example.com")
        assert host.isascii()
        assert not set(host) - set("abcdefghijklmnopqrstuvwxyz0123456789-_.")


SPELLED = st.sampled_from(["{}", "{}.", "{}:443", "{}.:443"])


@given(st.lists(st.booleans(), min_size=15, max_size=15), SPELLED)
def test_case_dots_and_ports_change_nothing(upper: list[bool], form: str) -> None:
    letters = zip("api.example.com", upper, strict=True)
    text = "".join(letter.upper() if up else letter for letter, up in letters)
    assert host_of(form.format(text)) == "api.example.com"
