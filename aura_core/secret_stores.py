"""The contract of secret stores: where master keys can be kept instead of in the keyring's text.

A reference has one of two forms, and the scheme finds the store, which is given and answers the
whole reference:

    <scheme>:<place>#<key id>                 the store keeps the key
    <scheme>:<place>#<key id>.<ciphertext>    the store wraps it, and the keyring keeps what it made

A store is asked when the control plane starts, when the keyring's text changes, and by commands;
never for each credential.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from aura_core.errors import (
    AuraError,
    ConfigurationError,
    Conflict,
    PluginError,
    ProviderUnavailable,
)

__all__ = ["SecretStore", "SecretStores", "wraps"]

_KEY_BYTES = 32
Answer = TypeVar("Answer")


class SecretStore(Protocol):
    """What a plugin's ``aura_secret_stores`` hook returns instances of.

    Its methods block, with a time-out of their own of some seconds; the host calls them where
    nothing else waits. They raise ``ConfigurationError`` for what the operator has to mend
    (address, login, policy, an unknown reference) and ``ProviderUnavailable`` for a store that is
    not reached. No error holds the secret.
    """

    scheme: str
    """What its references begin with: lower case letters, digits and dashes."""

    def fetch(self, reference: str) -> bytes:
        """The 32 bytes that the reference names or unwraps."""
        ...

    def keep(self, place: str, *, name: str, material: bytes) -> str:
        """Stores or wraps ``material`` and answers the reference that ``fetch`` takes.

        ``place`` is a reference up to its ``#``. The answer may name the place in another way, as
        long as it leads there for ever: an alias becomes the key that it stands for now. ``name``
        is the key's id; a store that wraps binds it into the ciphertext, so that one wrapped key
        cannot be passed off as another.

        Raises also ``Conflict`` where the place holds another key of that name, which is never
        overwritten; the host then takes another name. The same key again is no conflict.
        """
        ...

    def check(self) -> None:
        """Raises what is wrong with the address, the login or the permissions. It is asked only
        where the keyring refers to the store."""
        ...


class SecretStores:
    """The installed stores, found by the scheme of a reference.

    What a store raises beside the two errors of its contract becomes a ``PluginError`` that names
    the kind of error only: the words of somebody else's exception may quote what it was given.
    """

    def __init__(self, installed: Callable[[], Mapping[str, SecretStore]]) -> None:
        """``installed`` answers the stores by scheme; it is called when one is first needed,
        because finding them imports plugins."""
        self._installed = installed

    def fetch(self, kid: str, reference: str) -> bytes:
        """The material of master key ``kid``: 32 bytes.

        Raises ConfigurationError, ProviderUnavailable and PluginError.
        """
        store = self._of(f"Master key {kid}", reference)
        # A store that wraps authenticates the id that the reference names. So that id has to be the
        # entry's: else the binding says nothing, and an entry that was mixed up would seal under a
        # key of another name, which nobody could open once the keyring is put right.
        if _named(reference) != kid:
            raise ConfigurationError(
                f"Master key {kid}: its reference in the keyring names another key.",
                hint=f"What follows the # is {kid}, or {kid} with a dot and what wraps it.",
            )
        material = _asked(store, lambda: store.fetch(reference))
        if not isinstance(material, bytes) or len(material) != _KEY_BYTES:
            raise ConfigurationError(
                f"Master key {kid}: the secret store {store.scheme} answered something that is"
                f" not {_KEY_BYTES} bytes.",
                hint="Check the reference in the keyring and what is kept there.",
            )
        return material

    def keep(self, place: str, *, kid: str, material: bytes) -> str:
        """Keeps a new master key at ``place`` and answers its reference, once it was read back.

        Raises what :meth:`fetch` raises, and Conflict where another key of that id is kept there.
        """
        store = self._of("The new master key", place)
        reference = _asked(store, lambda: store.keep(place, name=kid, material=material))
        # A key that cannot be fetched again must never become active: all that is sealed under it
        # would be lost at the next start.
        if (
            not isinstance(reference, str)
            or not reference.startswith(f"{store.scheme}:")
            or not hmac.compare_digest(self.fetch(kid, reference), material)
        ):
            raise ConfigurationError(
                f"The secret store {store.scheme} does not give back the key that it was given.",
                hint="Nothing was changed here.",
            )
        return reference

    def check(self, references: Iterable[str]) -> Mapping[str, AuraError | None]:
        """What is wrong with each store that is referred to, by scheme; None where nothing is.

        The others are not asked: a store that is installed and not set up is no fault, and may look
        for its login in the network.
        """
        installed, found = self._installed(), dict[str, AuraError | None]()
        for scheme in sorted({reference.partition(":")[0] for reference in references}):
            if (store := installed.get(scheme)) is None:
                continue  # reading the keyring says so, without repeating what may be a key
            try:
                _asked(store, store.check)
            except AuraError as error:
                found[scheme] = error
            else:
                found[scheme] = None
        return found

    def _of(self, what: str, reference: str) -> SecretStore:
        scheme, colon, _ = reference.partition(":")
        stores = self._installed()
        if not colon or scheme not in stores:
            # The scheme is not repeated: where an entry is mistyped it may be key material.
            known = ", ".join(sorted(stores)) or "none"
            raise ConfigurationError(
                f"{what} is to be kept by a secret store that is not installed.",
                hint=f"Installed secret stores: {known}.",
            )
        return stores[scheme]


def wraps(reference: str) -> bool:
    """Whether the reference holds the key itself, wrapped: its store keeps nothing of it then."""
    return "." in reference.partition("#")[2]


def _named(reference: str) -> str:
    """The key's id that the reference names."""
    return reference.partition("#")[2].partition(".")[0]


def _asked(store: SecretStore, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except (ConfigurationError, Conflict, ProviderUnavailable):
        raise
    except Exception as error:  # noqa: BLE001 - somebody else's code may raise anything
        raise PluginError(
            f"The secret store {store.scheme} failed ({type(error).__name__})."
        ) from None
