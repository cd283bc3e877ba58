"""Blocks of a mapped file are compared with their digests when their bytes are used."""

import io

import numpy as np
import pytest

from polytok import errors
from services.runtime.storage import blocks, checksums

B = blocks.BLOCK_BYTES
DATA = np.random.default_rng(1).integers(0, 256, 3 * B + 100, np.uint8)


def damaged(what: str) -> errors.DataLoss:
    return checksums.damaged("a/file", what, "Retry.")


@pytest.mark.parametrize("sizes", [(), (1, B - 1, 5), (B, B + 1, 1), (0, 2 * B + 1)])
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
    data[B + 900] ^= 1
    content, digests = blocks.opened(data, sha256, damaged)
    checked = blocks.Blocks(content, digests, damaged)
    assert checked.read(0, B).tolist() == DATA[:B].tolist()
    assert checked.read(2 * B, len(DATA)).tolist() == DATA[2 * B :].tolist()
    assert checked.read(B + 900, B + 900).size == 0
    checked.check(np.array([1, 2 * B + 1, B + 900]), np.array([B, 3 * B + 100, B + 900]))
    for begin, end in ((B - 1, B + 1), (B, B + 1), (2 * B - 1, 2 * B), (0, len(DATA))):
        with pytest.raises(errors.DataLoss, match=rf"a/file .*\b{B}\b.*\b{2 * B - 1}\b"):
            checked.read(begin, end)
        with pytest.raises(errors.DataLoss):
            checked.check(np.array([0, begin]), np.array([10, end]))


def test_later_damage_is_found_unless_checked_once() -> None:
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
    with pytest.raises(errors.DataLoss, match=rf"\b{B}\b"):
        blocks.Blocks(data[:B], digests, damaged)
