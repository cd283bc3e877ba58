"""Tensors in a safetensors file, hashed while they are written and read.

A checksum computed from a file after writing does not prove that the right bytes were written, and bytes that are
checked and then mapped are read twice. The checksum is therefore that of the bytes in memory, both ways. The format:
https://huggingface.co/docs/safetensors/index#format.
"""

import hashlib
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from services.runtime.storage import flush_ahead

_CHUNK_BYTES = 8 << 20
_ALIGNMENT = 8
_MOST_HEADER_BYTES = 100_000_000
"""As in safetensors."""
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


class WrittenFile(NamedTuple):
    """A written file, with the digest of its bytes in memory."""

    size_bytes: int
    sha256: str


class DamagedFile(Exception):
    """Raised when a file differs from what was written."""


class _Hashed:
    """Hashes the bytes read from a file."""

    def __init__(self, file: io.BufferedReader) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def read_into(self, target: memoryview) -> None:
        for start in range(0, len(target), _CHUNK_BYTES):
            part = target[start : start + _CHUNK_BYTES]
            if self._file.readinto(part) != len(part):
                raise DamagedFile
            self._digest.update(part)
        self.size += len(target)

    def read(self, size: int) -> bytes:
        data = bytearray(size)
        self.read_into(memoryview(data))
        return bytes(data)

    def pass_over(self) -> None:
        while chunk := self._file.read(_CHUNK_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


def write(path: pathlib.Path, tensors: Mapping[str, torch.Tensor]) -> WrittenFile:
    """Write tensors, from any device, and sync the file; holds one tensor at a time in memory."""
    # The widest first, so that each is aligned to the size of its numbers.
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as file:
        sink = flush_ahead.BackgroundFlushFile(file)

        def put(data: memoryview | bytes) -> None:
            nonlocal size
            for start in range(0, len(data), _CHUNK_BYTES):
                part = data[start : start + _CHUNK_BYTES]
                digest.update(part)
                sink.write(part)
            size += len(data)

        put(len(encoded).to_bytes(8, "little") + encoded)
        for name in names:
            put(_bytes(tensors[name].detach().cpu()))
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(size, digest.hexdigest())


def read(path: pathlib.Path, written: WrittenFile, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Read tensors to a device. Raises DamagedFile unless the bytes that were read are those that were written."""
    with path.open("rb") as file:
        hashed = _Hashed(file)
        if os.fstat(file.fileno()).st_size != written.size_bytes:
            raise DamagedFile
        try:
            found = _read(hashed, written.size_bytes)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DamagedFile from error
        hashed.pass_over()
    if (hashed.size, hashed.sha256) != written:
        raise DamagedFile
    return {name: tensor.to(device) for name, tensor in found.items()}


def check(path: pathlib.Path, written: WrittenFile) -> None:
    """Raise DamagedFile if a file differs from what was written."""
    with path.open("rb") as file:
        hashed = _Hashed(file)
        hashed.pass_over()
    if (hashed.size, hashed.sha256) != written:
        raise DamagedFile


def _read(hashed: _Hashed, size: int) -> dict[str, torch.Tensor]:
    header_bytes = int.from_bytes(hashed.read(8), "little")
    if header_bytes > min(size - 8, _MOST_HEADER_BYTES):
        raise DamagedFile
    header = json.loads(hashed.read(header_bytes))
    found = {}
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end_before = entry["data_offsets"][0], end
        end = entry["data_offsets"][1]
        # No gaps, and no more memory than the file has bytes.
        if begin != end_before or not begin <= end <= size - 8 - header_bytes:
            raise DamagedFile
        tensor = torch.empty(end - begin, dtype=torch.uint8)
        hashed.read_into(_bytes(tensor))
        try:
            found[name] = tensor.view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        except RuntimeError as error:
            raise DamagedFile from error
    return found


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a tensor on the processor."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
