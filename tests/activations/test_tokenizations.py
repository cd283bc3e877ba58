"""Reading a tokenization by its manifest, wherever its files are."""

import hashlib
import json
import os
import pathlib

import pyarrow as pa
import pytest

from polytok import errors
from services.activations import tokenizations
from services.runtime.storage import Storage
from services.runtime.storage.cache import Cache
from tests.support import damage
from tests.support.messages import words

NAME = "datasets/docs/tokenizations/gpt2~packed"
MAKER = "datasets/docs/tokenizations/gpt2~first"
"""Of the same parameters: NAME shares the files that it made."""
KEY = "datasets/d/tokenized"


def _written(storage: Storage) -> tokenizations.TokenizationManifest:
    files = []
    for number in range(3):
        table = pa.table({"input_ids": [[number, row] for row in range(4)]})
        key = f"{KEY}/shard-{number}.arrow"
        with storage.create(key) as staged, pa.ipc.new_stream(staged, table.schema) as stream:
            stream.write_table(table)
        files.append(
            {"name": f"shard-{number}.arrow", "num_rows": 4, "size_bytes": staged.size, "sha256": staged.sha256}
        )
    content = {"name": MAKER, "files": files, "parameters": {}, "tokenizer": {"vocab_size": 9}, "statistics": {}}
    data = json.dumps(content).encode()
    storage.write_bytes(f"{KEY}/polytok.json", data)
    return tokenizations.read_manifest(storage, NAME, KEY, hashlib.sha256(data).hexdigest())


@pytest.fixture(params=["local", "remote", "remote with copies"])
def storage(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Storage:
    """Return a storage of each kind."""
    if request.param == "local":
        return Storage(str(tmp_path / "storage"))
    cache = Cache(str(tmp_path / "cache"), 1 << 20) if "copies" in request.param else None
    return Storage(f"memory://{tmp_path}", cache)


def test_rows_are_where_they_were(storage: Storage) -> None:
    manifest = _written(storage)
    reader = tokenizations.TokenizationReader(storage)
    whole = reader.open(manifest)
    assert whole["input_ids"].to_pylist() == [[number, row] for number in range(3) for row in range(4)]
    part = reader.open(manifest, 5, 2)
    assert part.num_rows == manifest.num_rows == 12
    assert part["input_ids"].slice(5, 2).to_pylist() == [[1, 1], [1, 2]]
    with pytest.raises(errors.InvalidArgument) as caught:
        reader.open(manifest, 12, 2)
    assert {NAME, "12", "13"} <= words(caught.value.message)


def test_damage_is_found_where_it_is_read(storage: Storage) -> None:
    manifest = _written(storage)
    data = bytearray(storage.read_bytes(manifest.files[2].key))
    data[-20] ^= 1
    storage.write_bytes(manifest.files[2].key, bytes(data))
    reader = tokenizations.TokenizationReader(storage)
    reader.open(manifest, 0, 8)
    with pytest.raises(errors.DataLoss) as caught:
        reader.open(manifest, 8, 1)
    assert (caught.value.reason, caught.value.retryable) == ("CHECKSUM_MISMATCH", False)
    assert caught.value.metadata == {"file": manifest.files[2].key}
    assert {"shard-2.arrow", NAME, manifest.files[2].sha256[:12]} <= words(caught.value.message)
    assert "`polytok tokenization repair docs gpt2 --variant packed`" in caught.value.message


def test_a_damaged_copy_is_dropped_and_made_again(tmp_path: pathlib.Path) -> None:
    storage = Storage(f"memory://{tmp_path}", Cache(str(tmp_path / "cache"), 1 << 20))
    manifest = _written(storage)
    reader = tokenizations.TokenizationReader(storage)
    whole = reader.open(manifest)
    damage.flip(tmp_path / "cache" / manifest.files[1].sha256[:2] / manifest.files[1].sha256, 0.9)
    with pytest.raises(errors.DataLoss) as caught:
        reader.open(manifest)
    assert (caught.value.reason, caught.value.retryable) == ("CHECKSUM_MISMATCH", True)
    assert caught.value.metadata == {"file": manifest.files[1].key}
    assert {"shard-1.arrow", NAME} <= words(caught.value.message)
    assert reader.open(manifest).equals(whole)


def test_damage_after_opening_is_found(storage: Storage) -> None:
    manifest = _written(storage)
    reader = tokenizations.TokenizationReader(storage)
    reader.open(manifest)
    path = storage.local_path(manifest.files[0].key)
    if path is not None:
        status = path.stat()
        damage.flip(path, 0.5)
        # A disk does not change a file's times.
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        with pytest.raises(errors.DataLoss) as caught:
            reader.open(manifest)
        assert caught.value.reason == "CHECKSUM_MISMATCH"
        assert {"shard-0.arrow", NAME} <= words(caught.value.message)


def test_a_record_without_checksums_is_refused(storage: Storage) -> None:
    with pytest.raises(errors.FailedPrecondition) as caught:
        tokenizations.read_manifest(storage, NAME, KEY, "")
    assert (caught.value.reason, caught.value.metadata) == ("NOT_READY", {"resource": NAME})
    assert {NAME, "checksums"} <= words(caught.value.message)
