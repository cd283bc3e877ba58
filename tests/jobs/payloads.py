"""Payloads and results of the fake task process, and where its program is."""

import pathlib
from typing import Any

from google.protobuf import any_pb2, struct_pb2

TASK_PROCESS_PROGRAM = pathlib.Path(__file__).with_name("fake_task_process.py")


def pack(**facts: Any) -> bytes:
    """Return a payload or a result."""
    struct = struct_pb2.Struct()
    struct.update(facts)
    packed = any_pb2.Any()
    packed.Pack(struct)
    return packed.SerializeToString()


def unpack(packed: bytes) -> dict[str, Any]:
    """Return the facts of a payload or a result."""
    struct = struct_pb2.Struct()
    assert any_pb2.Any.FromString(packed).Unpack(struct)
    return dict(struct)
