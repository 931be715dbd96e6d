"""moto's HTTP server in a process of its own: boto3 speaks to it as it would to AWS."""

from __future__ import annotations

import functools
import os
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest

REGION = "eu-central-1"
PAGE = 20
"""Names that S3 answers at once; AWS's own page has a thousand."""


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    """The server's address."""
    # The port is the system's choice; the server says on its standard error which one it got.
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": str(PAGE)},
        text=True,
    )
    found: list[str] = []
    started = threading.Event()

    def read() -> None:
        # To the end: a server whose pipe is full stands still.
        for line in process.stderr or ():
            if "Running on http://" in line:
                found.append(line.split("Running on ")[1].split()[0])
                started.set()
        started.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert started.wait(50)
        assert found, "moto's server did not start"
        yield found[0]
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials from the environment and from nowhere else."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE000000000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example-secret-access-key")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")


@pytest.fixture
def settings(moto: str) -> dict[str, str]:
    return {"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": moto}


@pytest.fixture(scope="session")
def aws(moto: str) -> Callable[[str], Any]:
    """A client of the operator's, by service."""
    session = boto3.Session(aws_access_key_id="operator", aws_secret_access_key="operator")

    @functools.cache
    def client(service: str) -> Any:
        return session.client(service, region_name=REGION, endpoint_url=moto)

    return client


@pytest.fixture
def key(aws: Callable[[str], Any]) -> str:
    """The ARN of a new key of KMS."""
    arn: str = aws("kms").create_key()["KeyMetadata"]["Arn"]
    return arn


@pytest.fixture
def bucket(aws: Callable[[str], Any]) -> str:
    """The name of a new bucket."""
    name = f"aura-{uuid.uuid4().hex[:12]}"
    aws("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return name


@pytest.fixture
def judged(moto: str) -> Callable[[], Any]:
    """While it is entered, the server asks who calls and what they may do."""

    def count(actions: str) -> None:
        url = f"{moto}/moto-api/reset-auth"
        plain = {"Content-Type": "text/plain"}
        urlopen(Request(url, data=actions.encode(), headers=plain), timeout=10).close()

    @contextmanager
    def entered() -> Iterator[None]:
        count("0")
        try:
            yield
        finally:
            count("inf")

    return entered


@contextmanager
def answering(
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    *,
    certificate: tuple[str, str] | None = None,
) -> Iterator[str]:
    """The address of a server that always answers the same; ``certificate`` names the files of
    chain and key."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # S3's client waits for "100 Continue"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST  # noqa: N815 - the base's words

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's word
            """Nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that does not accept the certificate hangs up: that is no fault here."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
