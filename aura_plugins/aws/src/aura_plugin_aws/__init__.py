"""AWS KMS as a place for Aura's master keys, and S3 for checkpoints of its audit log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aura_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from aura_core.checkpoints import CheckpointStore
    from aura_core.compute import HostContext
    from aura_core.secret_stores import SecretStore

__all__ = ["aura_checkpoint_stores", "aura_secret_stores"]


@hookimpl
def aura_secret_stores(context: HostContext) -> list[SecretStore]:
    """The store ``aws-kms``. boto3, half a second of imports, waits until it is used."""
    from aura_plugin_aws.kms import KmsStore

    return [KmsStore(context.settings)]


@hookimpl
def aura_checkpoint_stores(context: HostContext) -> list[CheckpointStore]:
    """Checkpoints below ``s3://bucket/prefix``."""
    from aura_plugin_aws.s3 import S3Checkpoints

    return [S3Checkpoints(context.settings)]
