"""One credential from the control plane to the machine's disk, and the acknowledgement back.

Aura's side seals and signs, posts to the real daemon, which checks, opens, writes durably, signs,
and then verifies the acknowledgement. Two limits: the same bytes posted to a bare aiohttp handler
that reads and answers, which is what any delivery by HTTP takes; and the same with one append and
``fdatasync``, which is what any delivery takes that survives a power failure. Cryptography is in
neither: sealing is what Aura is for, and a figure of its own shows what its primitives take.
Connections are not reused on either side: a machine gets one message now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from aura_core.wire import verify_ack
from benchmarks.machine import CONNECTION, GATEWAY_TOKEN, Machine, credential, machine
from benchmarks.measuring import Effort, Figure, by_turns_async, figure
from benchmarks.processes import bare_process

__all__ = ["measure"]

_BEARER = {"Authorization": f"Bearer {GATEWAY_TOKEN}"}


def measure(effort: Effort) -> Sequence[Figure]:
    """Milliseconds for one delivery, with nothing else under way."""
    return asyncio.run(_measure(effort))


async def _measure(effort: Effort) -> Sequence[Figure]:
    async with (
        machine() as subject,
        bare_process(subject.directory) as bare,
        subject.started(),
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session,
    ):
        await subject.asked.wait()
        message = subject.seal(CONNECTION, credential("https://api.example.org"))
        aura, taken, kept, primitives = await by_turns_async(
            effort.rounds,
            _each(effort.calls, _delivery(subject, session)),
            _each(effort.calls, _posting(session, f"http://{bare.status}/take", message)),
            _each(effort.calls, _posting(session, f"http://{bare.status}/keep", message)),
            _each(effort.calls, _cryptography(message)),
        )
    durable = [one + other for one, other in zip(kept, primitives, strict=True)]
    return [
        figure("to a bare handler", limit="POST and answer", unit="ms", aura=aura, bare=taken),
        figure("with the write", limit="POST, fdatasync, answer", unit="ms", aura=aura, bare=kept),
        figure(
            "with write and cryptography",
            limit="that, two HPKE, two signatures, two verifications",
            unit="ms",
            aura=aura,
            bare=durable,
        ),
    ]


def _each(calls: int, work: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[float]]:
    async def sample() -> float:
        began = time.perf_counter_ns()
        for _ in range(calls):
            await work()
        return (time.perf_counter_ns() - began) / calls / 1e6

    return sample


def _delivery(subject: Machine, session: aiohttp.ClientSession) -> Callable[[], Awaitable[None]]:
    payload = credential("https://api.example.org")
    url = f"{subject.origin}/internal/credentials/{CONNECTION}"
    assert subject.joined is not None
    public = subject.joined.sig_public

    async def deliver() -> None:
        message = subject.seal(CONNECTION, payload)
        async with session.post(url, data=message, headers=_BEARER) as answer:
            verify_ack(await answer.json(), public)

    return deliver


def _posting(
    session: aiohttp.ClientSession, url: str, message: bytes
) -> Callable[[], Awaitable[None]]:
    async def post() -> None:
        async with session.post(url, data=message) as answer:
            await answer.json()

    return post


def _cryptography(message: bytes) -> Callable[[], Awaitable[None]]:
    """The primitives of one delivery by the bare library, with nothing around them."""
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    recipient, signer = X25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    verifier, public = signer.public_key(), recipient.public_key()

    async def work() -> None:
        sealed = suite.encrypt(message, public, b"")
        verifier.verify(signer.sign(sealed), sealed)
        plain = suite.decrypt(sealed, recipient, b"")
        verifier.verify(signer.sign(plain), plain)

    return work
