"""Checkpoints of the audit log as objects in S3, written once.

A put says ``If-None-Match: *`` (Amazon S3 User Guide, "Conditional writes"): S3 itself refuses to
replace what is there, whoever asks. Against those who may delete, the bucket's object lock and
versioning are the operator's to set.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from aura_core.errors import AuraError, ConfigurationError, Conflict, ProviderUnavailable
from aura_plugin_aws.clients import Clients, Refused, asked

__all__ = ["S3Checkpoints"]

_LARGEST = 64 * 1024
_PUTS = 3
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_SEGMENT = r"(?!\.\.?(?:/|$))[A-Za-z0-9._-]+"
_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
_PREFIX = re.compile(rf"(?:{_SEGMENT}(?:/{_SEGMENT})*/?)?", re.ASCII)


class S3Checkpoints:
    """A :class:`aura_core.checkpoints.CheckpointStore`."""

    scheme = "s3"

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._clients = Clients(settings)

    def __repr__(self) -> str:
        return "S3Checkpoints()"

    def put(self, place: str, name: str, content: bytes) -> None:
        """Needs ``s3:PutObject``, and ``s3:GetObject`` for one that is there already.

        Raises :class:`Conflict` for other content under the name.
        """
        bucket, key = _at(place, name)
        if len(content) > _LARGEST:
            raise ConfigurationError(f"A checkpoint has at most {_LARGEST} bytes.")
        for _ in range(_PUTS):
            code = self._put(bucket, key, content)
            if code is None:
                return
            if code == "ConditionalRequestConflict":
                continue  # another put of this name was under way: S3 asks to try again
            if code not in {"PreconditionFailed", "412"}:
                raise _reason(code, bucket)
            held = self.get(place, name)
            if held == content:
                return
            if held is not None:
                raise Conflict(
                    f"The checkpoint {name} is in the bucket {bucket} with other content.",
                    hint="Nothing was overwritten. Find out who wrote it before going on.",
                )
        raise ProviderUnavailable(f"The checkpoint {name} cannot be written to S3 now.")

    def get(self, place: str, name: str) -> bytes | None:
        """Needs ``s3:GetObject``, and ``s3:ListBucket``: without it S3 answers that access is
        denied where it would otherwise say that there is no such object."""
        bucket, key = _at(place, name)
        client = self._clients.get("s3")

        def read() -> bytes:
            with client.get_object(Bucket=bucket, Key=key)["Body"] as body:
                content: bytes = body.read(_LARGEST + 1)
                return content

        try:
            content = asked(read, doing=f"s3:GetObject and s3:ListBucket on {bucket}")
        except Refused as refused:
            code = refused.code
        else:
            if len(content) > _LARGEST:
                raise ConfigurationError(f"{name} in the bucket {bucket} is no checkpoint.")
            return content
        if code in {"NoSuchKey", "404"}:
            return None
        raise _reason(code, bucket)

    def names(self, place: str, prefix: str) -> Iterator[str]:
        """Needs ``s3:ListBucket``. S3 lists in the order of UTF-8 (ListObjectsV2), which for the
        letters that names have is the order of ``sorted``. Keys that are no names (the empty object
        that a console makes for a folder) are passed over."""
        bucket, folder = _bucket_and_folder(place)
        if not _PREFIX.fullmatch(prefix):
            raise ConfigurationError("The beginning of a checkpoint's name has another form.")
        client = self._clients.get("s3")
        pages = iter(
            client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder + prefix)
        )
        while (page := self._next(pages, bucket)) is not None:
            for listed in page.get("Contents", ()):
                name = listed["Key"].removeprefix(folder)
                if _PATH.fullmatch(name):
                    yield name

    def _put(self, bucket: str, key: str, content: bytes) -> str | None:
        client = self._clients.get("s3")
        try:
            asked(
                lambda: client.put_object(
                    Bucket=bucket,
                    Key=key,
                    Body=content,
                    IfNoneMatch="*",
                    ContentType="application/json",
                    ChecksumAlgorithm="SHA256",
                ),
                doing=f"s3:PutObject on {bucket}",
            )
        except Refused as refused:
            return refused.code
        return None

    def _next(self, pages: Iterator[Any], bucket: str) -> Mapping[str, Any] | None:
        def following() -> Mapping[str, Any] | None:
            return next(pages, None)

        try:
            return asked(following, doing=f"s3:ListBucket on {bucket}")
        except Refused as refused:
            code = refused.code
        raise _reason(code, bucket)


def _at(place: str, name: str) -> tuple[str, str]:
    bucket, folder = _bucket_and_folder(place)
    if not _PATH.fullmatch(name):
        raise ConfigurationError("A checkpoint's name has another form.")
    return bucket, folder + name


def _bucket_and_folder(place: str) -> tuple[str, str]:
    """The bucket, and what each key begins with: empty, or ending with a slash."""
    url = urlsplit(place)
    folder = url.path.strip("/")
    if (
        url.scheme != "s3"
        or not _BUCKET.fullmatch(url.netloc)
        or (folder and not _PATH.fullmatch(folder))
        or url.query
        or url.fragment
    ):
        raise ConfigurationError(
            "A place for checkpoints in S3 has another form.", hint="It is s3://bucket/prefix."
        )
    return url.netloc, f"{folder}/" if folder else ""


def _reason(code: str, bucket: str) -> AuraError:
    if code == "NoSuchBucket":
        return ConfigurationError(f"S3 has no bucket {bucket}.")
    if code in {"PermanentRedirect", "AuthorizationHeaderMalformed", "301"}:
        return ConfigurationError(
            f"The bucket {bucket} is in another region.", hint="Set AURA_AWS_REGION."
        )
    return ConfigurationError(f"S3 refuses to use the bucket {bucket} ({code}).")
