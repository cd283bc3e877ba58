"""`polytok tokenization verify` against a stack."""

import json
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

import polytok
from polytok import errors
from polytok.cli.render import verification_report
from polytok.tokenizer.v1 import tokenizer_pb2
from tests.cli.conftest import Run
from tests.client import samples
from tests.support import processes
from tests.support.servers import await_condition

if TYPE_CHECKING:
    from tests.support.stacks import Stack


@pytest.fixture
def made(polytok_: Run, ready: tuple[str, str]) -> Iterator[tuple[str, pathlib.Path]]:
    """Yield a READY tokenization of the test's own, and its folder."""
    dataset, model = ready
    variant = samples.unique("v")
    command = ("tokenize", dataset, "-m", model, "--variant", variant, "--max-length", "16", "--watch", "--json")
    (record,) = polytok_(*command).json()["tokenizations"]
    yield f"{dataset}/{model}~{variant}", pathlib.Path(record["tokenized_path"])
    assert polytok_("tokenization", "delete", record["name"]).code == 0


def test_a_whole_tokenization(polytok_: Run, made: tuple[str, pathlib.Path]) -> None:
    name, folder = made
    found = polytok_("tokenization", "verify", name, "--sample", "25", "--json").json()
    assert found["findings"] == []
    assert found["num_files"] == len(list(folder.iterdir()))
    assert found["sampled_documents"] == 25
    shown = polytok_("tokenization", "verify", *name.split("/"))
    assert shown.code == 0
    assert "✓" in shown.out
    assert "✗" not in shown.out


def test_unknown_files_are_noted(polytok_: Run, made: tuple[str, pathlib.Path]) -> None:
    name, folder = made
    (folder / "notes[1].txt").touch()
    found = polytok_("tokenization", "verify", name, "--json").json()
    assert (found["findings"], found["unknown_files"], found["num_unknown_files"]) == ([], ["notes[1].txt"], 1)
    shown = polytok_("tokenization", "verify", name)
    assert (shown.code, "notes[1].txt" in shown.out) == (0, True)


def test_every_document(polytok_: Run, made: tuple[str, pathlib.Path]) -> None:
    name, _ = made
    found = polytok_("tokenization", "verify", name, "--sample", "all", "--json").json()
    assert found["findings"] == []
    with polytok.Client() as client:
        record = client.tokenizations.get(name)
        assert client.tokenizers.verify(name, sample="all").sampled_documents == record.statistics.num_documents
    assert found["sampled_documents"] == record.statistics.num_documents
    assert polytok_("tokenization", "verify", name, "--sample", "most").code == 2


def figures(text: str) -> list[str]:
    """Return the numbers in a text."""
    return re.findall(r"\d[\d,]*\d|\d", text)


def test_progress_says_how_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([5.0, 7.0])
    monkeypatch.setattr(verification_report.time, "monotonic", lambda: next(times))
    rate = verification_report.Rate()
    progress = tokenizer_pb2.VerifyProgress(done_documents=100, total_documents=2000)
    assert figures(verification_report.progress(progress, rate)) == ["100", "2,000"]
    progress.done_documents = 1100
    assert figures(verification_report.progress(progress, rate)) == ["1,100", "2,000", "500"]


def test_a_flipped_bit(polytok_: Run, made: tuple[str, pathlib.Path]) -> None:
    name, folder = made
    (path,) = folder.glob("*.arrow")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    result = polytok_("tokenization", "verify", name, "--json")
    assert result.code == 1
    (finding,) = json.loads(result.out)["findings"]
    assert (finding["kind"], finding["file"]) == ("WRONG_CHECKSUM", path.name)
    shown = polytok_("tokenization", "verify", name)
    assert shown.code == 1
    assert path.name in shown.out
    # It is reported, and the record is left alone.
    assert polytok_("tokenization", "show", name, "--json").json()["state"] == "READY"


def test_what_cannot_be_verified(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, _ = ready
    assert polytok_("tokenization", "verify", dataset, "absent").code == 4
    assert polytok_("tokenization", "verify", dataset, "absent", "--sample", "-1").code == 2


def test_no_process_is_left(polytok_: Run, stack: "Stack", made: tuple[str, pathlib.Path]) -> None:
    name, _ = made

    def running() -> int:
        return sum("services.tokenizer.server.encode_process" in line for line in processes.using(stack.home))

    before = running()
    with polytok.Client() as client:
        assert not client.tokenizers.verify(name).findings
        verification = client.tokenizers.verifying(name)
        next(verification)
        verification.close()  # type: ignore[attr-defined]
        with pytest.raises(errors.NotFound):
            client.tokenizers.verify("absent/absent")
    await_condition(lambda: running() <= before, "the processes that verified have ended")


def test_a_repair(polytok_: Run, made: tuple[str, pathlib.Path]) -> None:
    name, folder = made
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    (path,) = folder.glob("*.arrow")
    path.write_bytes(whole[path][:-1])
    (folder / "state.json").unlink()
    assert polytok_("tokenization", "verify", name).code == 1
    shown = polytok_("tokenization", "repair", name)
    assert shown.code == 0, shown
    assert [named for named in (path.name, "1 Arrow file ", "✓") if named not in shown.out] == []
    repaired = polytok_("tokenization", "show", name, "--json").json()["repair"]
    assert (repaired["state"], repaired["num_remade"], repaired.get("changes", [])) == ("DONE", 1, [])
    assert {path: path.read_bytes() for path in folder.iterdir()} == whole
    assert polytok_("tokenization", "verify", name).code == 0
    again = polytok_("tokenization", "repair", name, "--json").json()["repair"]
    assert (again["state"], again.get("damages", [])) == ("DONE", [])
    with polytok.Client() as client:
        begun = client.tokenizations.repair(name)
        *_, last = client.tokenizations.repairing(begun)
        assert (last.job, last.progress) == (begun.repair.job, 100.0)


def test_what_cannot_be_repaired(polytok_: Run, ready: tuple[str, str]) -> None:
    assert polytok_("tokenization", "repair", ready[0], "absent").code == 4
