"""Logs that are turned over while a process writes them."""

import pathlib

from services.embedded.logs import KEPT, Log


def test_large_log_is_rotated(tmp_path: pathlib.Path) -> None:
    log = Log(tmp_path / "service.log", maximum_bytes=10)
    with log.open() as writer:
        for number in range(KEPT + 2):
            writer.write(b"line %d is long enough\n" % number)
            writer.flush()
            log.rotate()
        writer.write(b"short\n")
        writer.flush()
        log.rotate()
    assert (tmp_path / "service.log").read_text() == "short\n"
    kept = [(tmp_path / f"service.log.{number}").read_text() for number in range(1, KEPT + 1)]
    assert kept == [f"line {number} is long enough\n" for number in range(KEPT + 1, 1, -1)]
    assert len(list(tmp_path.iterdir())) == KEPT + 1


def test_the_tail_is_the_end_of_a_long_log(tmp_path: pathlib.Path) -> None:
    log = Log(tmp_path / "service.log")
    assert log.tail() == ""
    with log.open() as writer:
        writer.write(b"".join(b"line %d\n" % number for number in range(5000)))
    assert log.tail().splitlines() == [f"line {number}" for number in range(4988, 5000)]
