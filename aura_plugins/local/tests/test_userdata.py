"""User-data is read as strictly as cloud-init is lenient."""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest
from aura_plugin_local.userdata import read_user_data

from aura_core.errors import ComputeError
from aura_plugins.local.tests.machines import JOIN_TOKEN, file, user_data


def encoded(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return base64.b64encode(gzip.compress(raw)).decode()


def test_files_come_out_as_they_are_meant() -> None:
    found = read_user_data(
        user_data(
            file("/etc/x", "text\r\n é\U0001f41a", "root:aura", "0640"),
            {"path": "/y", "content": "AAEC", "encoding": "b64", "defer": True},
        )
    ).files
    assert [(f.path, f.content, f.mode, f.owner, f.group) for f in found] == [
        ("/etc/x", "text\r\n é\U0001f41a".encode(), 0o640, "root", "aura"),
        ("/y", b"\x00\x01\x02", 0o644, "root", "root"),
    ]


GOOD = json.dumps({"write_files": [file("/x", JOIN_TOKEN)]})
REFUSED: dict[str, str] = {
    "nothing": "",
    "no base64": "#cloud-config",
    "no gzip": base64.b64encode(b"#cloud-config\n{}").decode(),
    "cut": user_data(file("/x", JOIN_TOKEN * 20))[:-12] + "AAAA",
    "too large": encoded("#cloud-config\n" + " " * (17 * 1024 * 1024)),
    "no first line": encoded(GOOD),
    "a script": encoded("#!/bin/sh\n" + GOOD),
    "no text": encoded(b"#cloud-config\n\xff"),
    "no YAML": encoded("#cloud-config\n{" + JOIN_TOKEN),
    "half a character": encoded(
        "#cloud-config\n" + json.dumps({"write_files": [file("/x", "\ud83d")]})
    ),
    "a list": encoded("#cloud-config\n[]"),
    "no files": encoded("#cloud-config\n{}"),
    "a Python object": encoded("#cloud-config\nwrite_files: !!python/object/apply:os.getpid []"),
}
FILES: dict[str, dict[str, Any]] = {
    "relative": {"path": "x"},
    "leading out": {"path": "/../x"},
    "leading out later": {"path": "/a/../../x"},
    "two slashes": {"path": "//x"},
    "a folder": {"path": "/x/"},
    "a NUL": {"path": "/x\0"},
    "special bits": {"permissions": "4755"},
    "appended": {"append": True},
    "fetched": {"source": {"uri": "http://192.0.2.1/"}},
    "no base64": {"encoding": "b64", "content": "not base64!"},
    "packed": {"encoding": "gzip"},
    "owner": {"owner": "aura"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_documents_are_refused(what: str) -> None:
    with pytest.raises(ComputeError) as caught:
        read_user_data(REFUSED[what])
    assert JOIN_TOKEN not in str(caught.value)
    assert caught.value.retryable is False


@pytest.mark.parametrize("what", FILES)
def test_files_are_refused(what: str) -> None:
    with pytest.raises(ComputeError) as caught:
        read_user_data(user_data({**file("/x", JOIN_TOKEN), **FILES[what]}))
    assert JOIN_TOKEN not in str(caught.value)
