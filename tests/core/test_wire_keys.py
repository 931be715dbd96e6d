from __future__ import annotations

import json

import pytest

from aura_core.encoding import b64url
from aura_core.errors import ConfigurationError
from aura_core.wire import ControlKeys, VmKeys, key_id, parse_public_keys


def test_a_machines_keys_survive_being_written_and_read() -> None:
    keys = VmKeys.generate()
    again = VmKeys.load(keys.dump())
    assert again.dump() == keys.dump()
    assert again.enc_public == keys.enc_public
    assert again.sig_public == keys.sig_public
    assert again.sign(b"m") == keys.sign(b"m")
    assert again.recipient_kid == keys.recipient_kid == key_id(keys.enc_public)


def test_the_control_planes_keys_survive_being_written_and_read() -> None:
    keys = ControlKeys.generate()
    again = ControlKeys.load(keys.dump())
    assert again.sig_public == keys.sig_public
    assert again.signer_kid == keys.signer_kid == key_id(keys.sig_public)


@pytest.mark.parametrize("kind", [VmKeys, ControlKeys])
def test_a_damaged_file_of_keys_is_refused_without_showing_it(
    kind: type[VmKeys | ControlKeys],
) -> None:
    good = kind.generate().dump()
    secret = json.loads(good)["sig"]
    for raw in (
        b"",
        good[:-1],
        good + good,
        good.replace(b'"v":1', b'"v":2'),
        good.replace(b'"v":1', b'"v":1,"x":1'),
        good.replace(secret.encode(), secret[:-4].encode()),
        good.replace(secret.encode(), b""),
        good.replace(b'"sig":"', b'"sig":["').replace(b'"}', b'"]}'),
    ):
        with pytest.raises(ConfigurationError, match="damaged") as caught:
            kind.load(raw)
        assert secret[:8] not in f"{caught.value!r}"


def test_no_private_key_shows() -> None:
    vm, control = VmKeys.generate(), ControlKeys.generate()
    assert repr(vm) == f"VmKeys(recipient_kid='{vm.recipient_kid}')"
    assert repr(control) == f"ControlKeys(signer_kid='{control.signer_kid}')"


def test_public_keys_are_read_from_settings() -> None:
    keys = ControlKeys.generate()
    parsed = parse_public_keys({keys.signer_kid: b64url(keys.sig_public)})
    assert parsed == {keys.signer_kid: keys.sig_public}


def test_public_keys_that_cannot_be_trusted_are_refused() -> None:
    one, other = ControlKeys.generate(), ControlKeys.generate()
    for keys, reason in (
        ({}, "No control plane"),
        ({one.signer_kid: b64url(other.sig_public)}, "another key's id"),
        ({one.signer_kid: b64url(one.sig_public[:-1])}, "32 bytes"),
        ({one.signer_kid: b64url(one.sig_public) + "="}, "base64url"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            parse_public_keys(keys)
