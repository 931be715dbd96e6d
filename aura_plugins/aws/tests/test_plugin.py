"""What the host finds, and what it does not pay for."""

from __future__ import annotations

import subprocess
import sys


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, aura_plugin_aws as plugin\n"
        "from pathlib import Path\n"
        "from aura_core.compute import HostContext\n"
        "context = HostContext(data_dir=Path('.'))\n"
        "assert [store.scheme for store in plugin.aura_secret_stores(context)] == ['aws-kms']\n"
        "assert [store.scheme for store in plugin.aura_checkpoint_stores(context)] == ['s3']\n"
        "print(sorted({'boto3', 'botocore'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.strip() == "[]"
