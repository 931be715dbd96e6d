"""Ways to write a host so that a careless reader takes it for another; both sides are tried."""

from __future__ import annotations

from hypothesis import strategies as st

__all__ = ["ODD", "spelled"]

ODD = (
    "api.example.com.", "API.example.com", "api.example.com:443", "api.example.com:0443",
    "user@api.example.com", "api.example.com@evil.example", "evil.example#@api.example.com",
    "api%2eexample.com", "%61pi.example.com", "api.example.com%00",
    "api.example.com%2eevil.example", "\u0430pi.example.com", "xn--pi-7kc.example.com",
    "a\u00adpi.example.com", "api\u3002example.com", "\uff41pi.example.com",
    "api.example.com\u200b", "api.example.com\\.evil.example", "127.0.0.1", "127.1", "0x7f.1",
    "0x7f000001", "0177.0.0.1", "017700000001", "2130706433", "127.0.0.1.", "[::1]",
    "[::ffff:127.0.0.1]", "[0:0:0:0:0:ffff:7f00:1]", "[64:ff9b::7f00:1]", "localhost",
    "localhost.", "evil.example", "api.example.com.evil.example", "xapi.example.com", ".",
    "*.example.com",
)  # fmt: skip
"""No one of these is ``api.example.com`` as a manifest writes it."""

_PARTS = (
    "api", ".", "example", "com", "evil", "@", ":", "443", "%2e", "%40", "#", "?", "\\", "[", "]",
    "xn--", "\u0430", "\u3002", "127", "0x7f", "0", "1", "*", " ", "/", "A", "-",
)  # fmt: skip

spelled = st.lists(st.sampled_from(_PARTS), max_size=9).map("".join)
