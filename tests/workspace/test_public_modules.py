"""What a module offers is what its ``__all__`` says; order is the linter's (RUF022)."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types

import pytest

from tests.workspace.tree import ROOT, distributions

# Alembic runs the environment and the versions itself: they are no modules to import.
RUN_BY_OTHERS = "aura_control.db.migrations."
PUBLIC = [
    module
    for distribution in distributions()
    for module in distribution.modules
    if not any(part.startswith("_") for part in module.split("."))
    and not module.startswith(RUN_BY_OTHERS)
]
HOST_ONLY = {"authlib", "dbos", "httpx", "pluggy", "pytest", "sqlalchemy", "starlette", "uvicorn"}
CLIENTS = {"boto3", "botocore", "flask", "hvac", "moto", "requests", "s3transfer"}
"""What plugins reach secret stores and checkpoint stores with; botocore takes half a second."""


@pytest.mark.parametrize("name", PUBLIC)
def test_all_resolves_and_leaves_nothing_public_out(name: str) -> None:
    module = importlib.import_module(name)
    offered = getattr(module, "__all__", [])
    assert len(offered) == len(set(offered))
    missing = [entry for entry in offered if not hasattr(module, entry)]
    assert not missing
    if not offered:
        assert not own_definitions(module), "a public module without __all__"


def own_definitions(module: types.ModuleType) -> list[str]:
    """The public classes and functions that the module itself defines."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and isinstance(value, type | types.FunctionType)
        and value.__module__ == module.__name__
    ]


def test_a_machine_loads_none_of_the_host_side() -> None:
    # The import contracts read source; this is what a machine's process has loaded in the end,
    # package initialisers and other people's libraries included.
    light = [name for name in PUBLIC if name.split(".")[0] in {"aura_vmd", "cloudinit_templates"}]
    program = (
        "import importlib, sys\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        f"print(*sorted({HOST_ONLY!r} & sys.modules.keys()))\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


def test_finding_the_stores_loads_no_client_of_theirs() -> None:
    """Which stores there are is asked as soon as the keyring has a reference, to any of them."""
    program = (
        "import sys\n"
        "from aura_core.registry import Registry\n"
        "from pathlib import Path\n"
        "from aura_core.compute import HostContext\n"
        "registry = Registry.discover(context=HostContext(data_dir=Path('.')))\n"
        "print(*sorted({**registry.secret_stores(), **registry.checkpoint_stores()}))\n"
        f"print('loaded:', *sorted({CLIENTS!r} & sys.modules.keys()))\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert asked.stdout.splitlines() == ["aws-kms s3 vault", "loaded:"]


def test_listing_the_plugins_loads_neither_their_code_nor_what_it_needs() -> None:
    # Reading manifests takes pydantic; whoever lists should not wait for the rest.
    heavy = HOST_ONLY - {"pluggy"} | CLIENTS | {"cryptography", "jinja2"}
    program = (
        "import sys\n"
        "from aura_control.cli import main\n"
        "sys.argv[1:] = ['plugins', 'list']\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        f"own = {{name for name in sys.modules if name.startswith('aura_plugin_')}}\n"
        f"print('loaded:', *sorted({heavy!r} & sys.modules.keys() | own))\n"
    )
    listed = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    *table, loaded = listed.stdout.splitlines()
    assert any(line.startswith("google ") for line in table)
    assert loaded == "loaded:"
