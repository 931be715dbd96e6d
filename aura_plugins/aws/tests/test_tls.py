"""Whom the clients believe to be AWS."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

import boto3
import pytest
from aura_plugin_aws.kms import KmsStore
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aura_core.errors import ConfigurationError
from aura_plugins.aws.tests.conftest import REGION, answering


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate of 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "aws")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    chain, private = tmp_path / "aws.pem", tmp_path / "aws.key"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(chain), str(private)


def test_the_environment_adds_no_authority(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, certificate[0])
    body, headers = b'{"Keys": []}', {"Content-Type": "application/x-amz-json-1.1"}
    with answering(200, body, headers, certificate=certificate) as address:
        # A client that reads the variables is led there by them.
        boto3.session.Session().client("kms", REGION, endpoint_url=address).list_keys()
        store = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_KMS_ENDPOINT": address})
        with pytest.raises(ConfigurationError, match="certificate of AWS's endpoint"):
            store.check()
