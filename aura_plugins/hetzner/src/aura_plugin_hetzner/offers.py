"""Which server types come into question where, and at what price: read from the API each time.

Types come and go and their prices change several times a year, so neither is a constant. What the
API says of stock (``available``) is an indicator only: it decides the order, not the choice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aura_core.errors import ComputeError
from aura_plugin_hetzner.settings import REGIONS, HetznerSettings

__all__ = ["Offer", "Shelf"]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A server type in a location. ``monthly`` is the net price with an IPv4 address."""

    type: str
    location: str
    architecture: str
    disk: int
    monthly: Decimal
    currency: str
    available: bool

    def __str__(self) -> str:
        return f"{self.type} in {self.location} ({self.monthly:.2f} {self.currency})"


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """What Hetzner offers: ``GET /server_types`` and ``GET /pricing`` as they were answered."""

    types: Sequence[Mapping[str, Any]]
    pricing: Mapping[str, Any]

    def offers(
        self, settings: HetznerSettings, *, region: str | None, size: str | None
    ) -> list[Offer]:
        """What may be taken, the best first.

        Raises :class:`ComputeError` for a region or type that Hetzner does not have, for prices
        that are all above the ceiling, and for a currency without one.
        """
        places = self._places(region or settings.region)
        wanted = (size,) if size else settings.types
        self._know(wanted)
        ceiling = settings.most_monthly.get(self.currency)
        if ceiling is None:
            raise ComputeError(
                f"The Hetzner project is billed in {self.currency}, for which there is no ceiling.",
                retryable=False,
                hint="Use a project that is billed in one of: "
                f"{', '.join(sorted(settings.most_monthly))}.",
            )
        fitting = [
            offer
            for entry in self.types
            if (entry["name"] in wanted if wanted else _fits(entry, settings))
            for offer in self._offered(entry, places, named=bool(wanted))
        ]
        if not fitting:
            raise ComputeError(
                f"Hetzner has no server type that fits in {', '.join(places)}.",
                retryable=False,
                hint=_CHOICE,
            )
        affordable = [offer for offer in fitting if offer.monthly <= ceiling]
        if not affordable:
            cheapest = min(fitting, key=lambda offer: offer.monthly)
            raise ComputeError(
                f"Every server type that fits costs more than {ceiling:.2f} {self.currency} a "
                f"month (net, with IPv4). The cheapest is {cheapest}.",
                retryable=False,
                hint=f"Raise AURA_HETZNER_MAX_MONTHLY_{self.currency}, or choose another region.",
            )
        return sorted(affordable, key=lambda offer: _rank(offer, wanted, places))

    @property
    def currency(self) -> str:
        return str(self.pricing["currency"])

    def _places(self, region: str) -> tuple[str, ...]:
        region = region.lower()
        known = {place["name"] for entry in self.types for place in entry["locations"]}
        places = REGIONS.get(region, (region,))
        if not known & {*places}:
            raise ComputeError(
                f"Hetzner has no region {region!r}.",
                retryable=False,
                hint=f"Regions are {', '.join(REGIONS)}; locations are {', '.join(sorted(known))}.",
            )
        return places

    def _know(self, wanted: Iterable[str]) -> None:
        known = {entry["name"] for entry in self.types}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise ComputeError(
                f"Hetzner has no server type {', '.join(unknown)}.",
                retryable=False,
                hint=f"{_CHOICE} It has: {', '.join(sorted(known))}.",
            )

    def _offered(
        self, entry: Mapping[str, Any], places: Sequence[str], *, named: bool
    ) -> Iterable[Offer]:
        prices = {price["location"]: price for price in entry["prices"]}
        for place in entry["locations"]:
            name = place["name"]
            # What is on its way out is taken only where the operator names it.
            leaving = place.get("deprecation") is not None and not named
            if name not in places or name not in prices or leaving:
                continue
            yield Offer(
                type=entry["name"],
                location=name,
                architecture=entry["architecture"],
                disk=int(entry["disk"]),
                monthly=_net(prices[name]) + self._address(name),
                currency=self.currency,
                available=bool(place["available"]),
            )

    def _address(self, location: str) -> Decimal:
        for address in self.pricing["primary_ips"]:
            if address["type"] == "ipv4":
                for price in address["prices"]:
                    if price["location"] == location:
                        return _net(price)
        return Decimal(0)


_CHOICE = "AURA_HETZNER_TYPES names the types to try."


def _net(price: Mapping[str, Any]) -> Decimal:
    return Decimal(price["price_monthly"]["net"])


def _fits(entry: Mapping[str, Any], settings: HetznerSettings) -> bool:
    enough = entry["cores"] >= settings.least_cores
    return enough and Decimal(str(entry["memory"])) >= settings.least_memory


def _rank(offer: Offer, wanted: Sequence[str], places: Sequence[str]) -> tuple[Any, ...]:
    """In stock before out of stock; then the operator's order, or the price; then the region's."""
    preference = wanted.index(offer.type) if wanted else 0
    return (not offer.available, preference, offer.monthly, places.index(offer.location))
