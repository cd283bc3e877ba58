"""Register `buf/validate/validate.proto`, which the contracts import, in protobuf's default pool.

The generated stubs import this module instead of `buf.validate.validate_pb2`. The descriptor comes from the installed
`protovalidate` package, so the repository needs no copy of it.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2
from protovalidate._gen.buf.validate import validate_pb

_IMPORTED_BY_THE_RULES = (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2)

SERIALIZED: bytes = validate_pb._DESC.proto.to_binary()
"""The serialized FileDescriptorProto of `buf/validate/validate.proto`."""

DESCRIPTOR = descriptor_pool.Default().AddSerializedFile(SERIALIZED)
