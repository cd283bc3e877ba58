"""Blocks of a mapped file are compared with their digests when their bytes are used."""

import io

import numpy as np
import pytest

from polytok import errors
from services.runtime.storage import blocks, checksums

DATA = np.random.default_rng(1).integers(0, 256, 3 * blocks.BLOCK_BYTES + 100, np.uint8)


def damaged(what: str) -> errors.DataLoss:
    return checksums.damaged("a/file", what, "Retry.")


@pytest.mark.parametrize("sizes", [(), (1, 4095, 5), (4096, 4097, 1), (0, 9000)])
def test_digests_do_not_depend_on_how_content_comes(sizes: tuple[int, ...]) -> None:
    whole, pieces = blocks.Hasher(), blocks.Hasher()
    whole.update(DATA.data)
    start = 0
    for size in (*sizes, len(DATA)):
        pieces.update(DATA[start : start + size].data)
        start += size
    assert pieces.digests() == whole.digests()
    assert len(whole.digests()) == 8 * 4


def file() -> tuple[np.ndarray, str]:
    sink = io.BytesIO()
    writer = blocks.Writer(sink)
    writer.write(DATA.data)
    sha256 = writer.finish()
    return np.frombuffer(bytearray(sink.getvalue()), np.uint8), sha256


def test_only_what_is_used_is_checked() -> None:
    data, sha256 = file()
    data[5000] ^= 1
    content, digests = blocks.opened(data, sha256, damaged)
    checked = blocks.Blocks(content, digests, damaged)
    assert checked.read(0, 4096).tolist() == DATA[:4096].tolist()
    assert checked.read(8192, len(DATA)).tolist() == DATA[8192:].tolist()
    assert checked.read(5000, 5000).size == 0
    checked.check(np.array([1, 9000, 5000]), np.array([4096, 12_388, 5000]))
    for begin, end in ((4095, 4097), (4096, 4097), (8191, 8192), (0, len(DATA))):
        with pytest.raises(errors.DataLoss, match=r"a/file .*: its bytes 4096 to 8191 were changed"):
            checked.read(begin, end)
        with pytest.raises(errors.DataLoss):
            checked.check(np.array([0, begin]), np.array([10, end]))


def test_what_changes_later_is_found_unless_once_is_enough() -> None:
    data, sha256 = file()
    content, digests = blocks.opened(data, sha256, damaged)
    each_time, once = (blocks.Blocks(content, digests, damaged, once=value) for value in (False, True))
    places = np.array([0]), np.array([10])
    for checked in (each_time, once):
        checked.check(*places)
    data[7] ^= 1
    with pytest.raises(errors.DataLoss):
        each_time.check(*places)
    once.check(*places)


@pytest.mark.parametrize("change", ["digest", "shorter", "longer", "empty", "another"])
def test_other_digests_are_refused(change: str) -> None:
    data, sha256 = file()
    if change == "digest":
        data[-1] ^= 1
    elif change == "shorter":
        data = data[:-8]
    elif change == "longer":
        data = np.append(data, np.zeros(8, np.uint8))
    elif change == "empty":
        data = data[:0]
    else:
        sha256 = "0" * 64
    with pytest.raises(errors.DataLoss):
        blocks.opened(data, sha256, damaged)


def test_content_of_another_size_is_refused() -> None:
    data, sha256 = file()
    _, digests = blocks.opened(data, sha256, damaged)
    with pytest.raises(errors.DataLoss, match="4096 bytes"):
        blocks.Blocks(data[:4096], digests, damaged)
