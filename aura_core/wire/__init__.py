"""What goes between the control plane and a machine: join, push, acknowledgement, signed requests.

All messages are JSON with base64url fields (no padding). The parsers accept one form only. Time is
always given by the caller, in milliseconds since 1970.
"""

from aura_core.wire._ack import Ack, sign_ack, verify_ack
from aura_core.wire._fields import MAX_MESSAGE_BYTES, key_id
from aura_core.wire._join import (
    JoinAnswer,
    JoinRequest,
    make_join,
    open_join_answer,
    seal_join_answer,
    verify_join,
)
from aura_core.wire._keys import ControlKeys, VmKeys, check_signature, parse_public_keys
from aura_core.wire._push import (
    Op,
    Push,
    PushHeader,
    next_revision,
    parse_push,
    push_digest,
    seal_push,
)
from aura_core.wire._request import (
    check_bearer,
    claimed_instance,
    sign_request,
    verify_request,
)

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Ack",
    "ControlKeys",
    "JoinAnswer",
    "JoinRequest",
    "Op",
    "Push",
    "PushHeader",
    "VmKeys",
    "check_bearer",
    "check_signature",
    "claimed_instance",
    "key_id",
    "make_join",
    "next_revision",
    "open_join_answer",
    "parse_public_keys",
    "parse_push",
    "push_digest",
    "seal_join_answer",
    "seal_push",
    "sign_ack",
    "sign_request",
    "verify_ack",
    "verify_join",
    "verify_request",
]
