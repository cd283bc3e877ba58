"""Registers `buf/validate/validate.proto`, which our contracts import, in protobuf's default pool.

The generated stubs import this module in place of `buf.validate.validate_pb2`: the descriptor comes from the
installed `protovalidate` package, so that no copy of it is kept here.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2
from protovalidate._gen.buf.validate import validate_pb

_IMPORTED_BY_THE_RULES = (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2)

SERIALIZED: bytes = validate_pb._DESC.proto.to_binary()
"""The serialized FileDescriptorProto of `buf/validate/validate.proto`."""

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(SERIALIZED)
