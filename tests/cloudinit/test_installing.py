"""The composed installer, run: an archive of wheels becomes a virtual environment, or nothing."""

from __future__ import annotations

import base64
import ensurepip
import hashlib
import http.server
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cloudinit_templates import DaemonArchive, compose
from tests.cloudinit.plans import contents, plan

INSTALLER = "/usr/local/lib/aura/install_daemon.py"


def wheel(name: str, module: str) -> tuple[str, bytes]:
    """A wheel (PEP 427) of one module with a program of the same name."""
    info = f"{module}-1.0.dist-info"
    files = {
        f"{module}.py": "def main():\n    print('the daemon runs')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name} = {module}:main\n",
    }
    record = [
        f"{path},sha256={base64.urlsafe_b64encode(digest).rstrip(b'=').decode()},{len(text)}"
        for path, text in files.items()
        for digest in [hashlib.sha256(text.encode()).digest()]
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return f"{module}-1.0-py3-none-any.whl", buffer.getvalue()


def pip_wheel() -> tuple[str, bytes]:
    """The one that every Python brings."""
    (path,) = (Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl")
    return path.name, path.read_bytes()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()
    handler = partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Requests are of no interest."""


def install(
    tmp_path: Path, served: str, wheels: list[tuple[str, bytes]], *, sha256: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the installer as composed, but for where it installs to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in wheels:
            entry = tarfile.TarInfo(f"../wheels/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    (tmp_path / "served/bundle.tar").write_bytes(buffer.getvalue())
    pinned = sha256 or hashlib.sha256(buffer.getvalue()).hexdigest()
    source = DaemonArchive(url=f"{served}/bundle.tar", sha256=pinned)
    text = contents(compose(plan(daemon=source)).cloud_config)[INSTALLER]
    assert text.count('Path("/opt/aura")') == 1
    script = tmp_path / "install_daemon.py"
    script.write_text(text.replace("/opt/aura", str(tmp_path / "opt")))
    return subprocess.run(
        [sys.executable, "-I", script], capture_output=True, text=True, check=False, timeout=150
    )


def test_the_daemon_is_installed_from_the_archive_alone(tmp_path: Path, served: str) -> None:
    done = install(tmp_path, served, [pip_wheel(), wheel("aura-vmd", "aura_vmd")])
    assert done.returncode == 0, done.stderr
    program = tmp_path / "opt/bin/aura-vmd"
    assert subprocess.check_output([program], text=True) == "the daemon runs\n"
    assert not (tmp_path / "wheels").exists()
    listed = {path.name for path in (tmp_path / "opt").glob("lib/python3*/site-packages/*")}
    assert listed >= {"aura_vmd.py"}
    assert not [name for name in listed if name.startswith("pip")]


def test_another_archive_than_the_pinned_is_refused(tmp_path: Path, served: str) -> None:
    done = install(tmp_path, served, [pip_wheel()], sha256="0" * 64)
    assert done.returncode == 1
    assert "not the one that was pinned" in done.stderr
    assert not (tmp_path / "opt").exists()


def test_an_archive_without_pip_is_refused(tmp_path: Path, served: str) -> None:
    done = install(tmp_path, served, [wheel("aura-vmd", "aura_vmd")])
    assert done.returncode == 1
    assert "pip" in done.stderr
    assert not (tmp_path / "opt").exists()
