"""Which addresses a provider's host may have, judged at the moment of connecting.

A manifest names hosts, and whoever runs their DNS says where they lie: the metadata service of a
cloud, the operator's network, the machine itself. Both sides that call providers, the daemon and
the control plane, resolve a name once, judge what came, and connect to just that address, so that
no second look-up can answer otherwise (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection

__all__ = ["is_public", "may_connect"]

_UNICAST = ipaddress.IPv6Network("2000::/3")  # all that is routed (RFC 4291 §2.4)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052 §2.1
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # 6to4, withdrawn by RFC 7526
_INSIDE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
        "100.64.0.0/10",  # RFC 6598, and tailnets
        "127.0.0.0/8", "::1/128",
        "fc00::/7",  # RFC 4193
    )
)  # fmt: skip
"""What an operator may open. Link-local addresses are not among them: that is where clouds keep
the credentials of the machine itself (169.254.169.254, fd00:ec2::254)."""

_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200")))


def is_public(address: str) -> bool:
    """Whether an address belongs to the internet at large. Raises ``ValueError`` for a name.

    An IPv4 address inside an IPv6 one leads where its gateway sends it. Of these, only NAT64 is in
    use, and counts as what is inside; IPv4-mapped (RFC 4291 §2.5.5.2) and 6to4 (withdrawn by
    RFC 7526) come from no honest name server and are refused whatever they hold.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        elif ip not in _UNICAST or ip.sixtofour is not None:
            return False
    return ip.is_global and not ip.is_multicast and ip not in _RELAYS


def may_connect(address: str, *, host: str, private_hosts: Collection[str] = ()) -> bool:
    """Whether a connection to ``host`` (without port) may go to this address of it.

    ``private_hosts`` are names that the operator lets lie inside their network. Raises
    ``ValueError`` for an address that is none.
    """
    if is_public(address):
        return True
    if host not in private_hosts:
        return False
    ip = ipaddress.ip_address(address.partition("%")[0])
    return ip not in _METADATA and any(ip in network for network in _INSIDE)
