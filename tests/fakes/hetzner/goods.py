"""What the fake offers: server types with prices and stock, as the API shows them.

Names, places and prices are those of autumn 2026, EUR net a month without the address.
"""

from __future__ import annotations

from typing import Any

__all__ = ["LOCATIONS", "location", "pricing", "server_types"]

LOCATIONS = {
    "fsn1": (1, "Falkenstein", "DE", "eu-central"),
    "nbg1": (2, "Nuremberg", "DE", "eu-central"),
    "ash": (4, "Ashburn, VA", "US", "us-east"),
}
_TYPES = [
    # name, architecture, cores, memory, disk, net price by location, sold out where
    ("cx23", "x86", 2, 4, 40, {"nbg1": "5.4900", "fsn1": "5.4900"}, {"nbg1"}),
    ("cax11", "arm", 2, 4, 40, {"nbg1": "5.9900", "fsn1": "5.9900"}, set()),
    ("cpx12", "x86", 1, 2, 40, {"nbg1": "11.4900", "fsn1": "11.4900"}, set()),
    ("cpx22", "x86", 2, 4, 80, {"nbg1": "19.4900", "fsn1": "19.4900"}, set()),
    ("ccx13", "x86", 2, 8, 80, {"nbg1": "42.9900", "fsn1": "42.9900"}, set()),
    ("cpx11", "x86", 2, 2, 40, {"ash": "17.4900"}, set()),
]


def _money(net: str) -> dict[str, str]:
    return {"net": net, "gross": f"{float(net) * 1.19:.4f}"}


def _price(place: str, monthly: str) -> dict[str, Any]:
    return {
        "location": place,
        "price_hourly": _money("0.0100"),
        "price_monthly": _money(monthly),
        "included_traffic": 21990232555520,
        "price_per_tb_traffic": _money("1.0000"),
    }


def server_types() -> list[dict[str, Any]]:
    """As ``GET /server_types`` shows them."""
    return [
        {
            "id": number,
            "name": name,
            "description": name.upper(),
            "category": "Shared",
            "cores": cores,
            "memory": memory,
            "disk": disk,
            "deprecated": False,
            "prices": [_price(place, net) for place, net in prices.items()],
            "storage_type": "local",
            "cpu_type": "shared",
            "architecture": architecture,
            "deprecation": None,
            "locations": [
                {
                    "id": LOCATIONS[place][0],
                    "name": place,
                    "deprecation": None,
                    "recommended": True,
                    "available": place not in out,
                }
                for place in prices
            ],
        }
        for number, (name, architecture, cores, memory, disk, prices, out) in enumerate(_TYPES, 1)
    ]


def pricing(currency: str = "EUR") -> dict[str, Any]:
    """As ``GET /pricing`` shows it."""
    a_gigabyte = {"price_per_gb_month": _money("0.0110")}
    return {
        "currency": currency,
        "vat_rate": "19.00",
        "primary_ips": [
            {
                "type": "ipv4",
                "prices": [
                    {
                        "location": place,
                        "price_hourly": _money("0.0008"),
                        "price_monthly": _money("0.5000"),
                    }
                    for place in LOCATIONS
                ],
            }
        ],
        "floating_ips": [],
        "floating_ip": {"price_monthly": _money("3.0000")},
        "image": a_gigabyte,
        "volume": a_gigabyte,
        "server_backup": {"percentage": "20.00"},
        "server_types": [],
        "load_balancer_types": [],
    }


def location(name: str) -> dict[str, Any]:
    number, city, country, zone = LOCATIONS[name]
    return {
        "id": number,
        "name": name,
        "description": city,
        "country": country,
        "city": city,
        "latitude": 50.0,
        "longitude": 12.0,
        "network_zone": zone,
    }
