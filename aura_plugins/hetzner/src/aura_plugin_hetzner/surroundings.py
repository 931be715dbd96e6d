"""What every machine needs beside itself: firewall, SSH keys and image; and what is on offer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from aura_core.errors import ComputeError
from aura_plugin_hetzner.api import Api
from aura_plugin_hetzner.failures import Refused
from aura_plugin_hetzner.kept import Kept
from aura_plugin_hetzner.offers import Offer, Shelf
from aura_plugin_hetzner.ours import OURS, SELECTOR, is_ours
from aura_plugin_hetzner.pace import Clock
from aura_plugin_hetzner.settings import HetznerSettings

__all__ = ["Surroundings"]

_ANYWHERE = ["0.0.0.0/0", "::/0"]
_FRESH = 600.0
_PRICES_FRESH = 300.0


class Surroundings:
    """Found or made once, and then kept in mind."""

    def __init__(self, api: Api, settings: HetznerSettings, *, clock: Clock) -> None:
        self._api = api
        self._settings = settings
        self._firewall = Kept(self._find_firewall, clock=clock)
        self._keys = Kept(self._find_keys, clock=clock)
        self._images = Kept(self._find_images, clock=clock)
        self._shelf = Kept(self._find_shelf, clock=clock)

    async def shelf(self) -> Shelf:
        return await self._shelf.get(seconds=_PRICES_FRESH)

    async def body(self) -> dict[str, Any]:
        """What a request for a server holds of all this, but for the image."""
        return {
            "firewalls": [{"firewall": await self._firewall.get(seconds=_FRESH)}],
            "ssh_keys": await self._keys.get(seconds=_FRESH),
            "public_net": {"enable_ipv4": True, "enable_ipv6": True},
        }

    async def image(self, offer: Offer) -> str:
        """The newest snapshot of ours that runs on this type, else the system's image."""
        for image in await self._images.get(seconds=_FRESH):
            if image["architecture"] == offer.architecture and image["disk_size"] <= offer.disk:
                return str(image["id"])
        return self._settings.image

    def forget(self) -> None:
        """Something of it is not there any more."""
        for kept in (self._firewall, self._keys, self._images):
            kept.forget()

    async def remove(self) -> None:
        """Frees what only machines needed, after the last of them. What is in use again stays."""
        self._firewall.forget()
        for firewall in await self._api.every("/firewalls", "firewalls", label_selector=SELECTOR):
            try:
                await self._api.call("DELETE", f"/firewalls/{firewall['id']}")
            except Refused as error:
                if error.code not in ("resource_in_use", "not_found", "conflict", "locked"):
                    raise

    async def _find_shelf(self) -> Shelf:
        types = await self._api.every("/server_types", "server_types")
        pricing = await self._api.call("GET", "/pricing")
        return Shelf(types=types, pricing=pricing["pricing"])

    async def _find_images(self) -> Sequence[Mapping[str, Any]]:
        snapshots = await self._api.every(
            "/images",
            "images",
            type="snapshot",
            status="available",
            label_selector=self._settings.image_label,
            sort="created:desc",
        )
        return [image for image in snapshots if image["deprecated"] is None]

    async def _find_keys(self) -> list[str]:
        """SSH keys by their names, which the API takes instead of ids. Raises ComputeError for one
        that the project does not have: a machine to which nobody has a key cannot be mended."""
        settings = self._settings
        if not settings.ssh_keys and settings.ssh_key_label is None:
            return []
        found = []
        if settings.ssh_key_label is not None:
            label = settings.ssh_key_label
            found = await self._api.every("/ssh_keys", "ssh_keys", label_selector=label)
            if not found:
                raise ComputeError(
                    f"The Hetzner project has no SSH key with the label {label}.",
                    retryable=False,
                    hint="Label one in the Hetzner Console, or change AURA_HETZNER_SSH_KEY_LABEL.",
                )
        if settings.ssh_keys:
            known = await self._api.every("/ssh_keys", "ssh_keys")
            found += [key for key in known if key["name"] in settings.ssh_keys]
            missing = {*settings.ssh_keys} - {key["name"] for key in found}
            if missing:
                raise ComputeError(
                    f"The Hetzner project has no SSH key {', '.join(sorted(missing))}.",
                    retryable=False,
                    hint="Add it in the Hetzner Console, or change AURA_HETZNER_SSH_KEYS.",
                )
        return sorted({str(key["name"]) for key in found})

    async def _find_firewall(self) -> int:
        """The firewall's id; it is made where there is none.

        Its name ends with a digest of its rules: other settings mean another firewall, and one that
        machines have is never changed under them.
        """
        rules = firewall_rules(self._settings)
        digest = hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()[:8]
        name = f"aura-machines-{digest}"
        found = await self._named(name)
        if found is None:
            body = {"name": name, "labels": OURS, "rules": rules}
            try:
                found = (await self._api.call("POST", "/firewalls", None, body))["firewall"]
            except Refused as error:
                if error.code != "uniqueness_error":
                    raise
                # Another process was faster.
                found = await self._named(name)
        if found is None or not is_ours(found):
            raise ComputeError(
                f"The Hetzner project has a firewall {name} that is not Aura's (no label "
                f"{SELECTOR}).",
                retryable=False,
                hint="Rename or remove it.",
            )
        return int(found["id"])

    async def _named(self, name: str) -> dict[str, Any] | None:
        found = await self._api.every("/firewalls", "firewalls", name=name)
        return found[0] if found else None


def firewall_rules(settings: HetznerSettings) -> list[dict[str, Any]]:
    """Inbound is closed but for these (a Hetzner firewall with one rule inwards refuses the rest);
    outbound is the daemon's and the agent's business, and open."""

    def inward(protocol: str, port: str | None, sources: Sequence[str]) -> dict[str, Any]:
        rule = {"direction": "in", "protocol": protocol, "source_ips": [*sources]}
        return rule if port is None else {**rule, "port": port}

    rules = [
        inward("tcp", "80", _ANYWHERE),  # the web server: sealed messages to the daemon, webhooks
        inward("tcp", "443", _ANYWHERE),
        inward("icmp", None, _ANYWHERE),  # path MTU discovery
    ]
    if settings.ssh_from:
        rules.append(inward("tcp", "22", settings.ssh_from))
    return rules
