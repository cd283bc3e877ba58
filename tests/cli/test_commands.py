"""Every command against a stack."""

import json
import pathlib
import re
from typing import TYPE_CHECKING

import datasets
import pytest

from polytok.cli.options import shared
from tests.cli.conftest import Run
from tests.client import samples

if TYPE_CHECKING:
    from tests.support.stacks import Stack


def test_a_dataset_from_add_to_delete(polytok_: Run, documents: pathlib.Path) -> None:
    name = samples.unique("docs")
    added = polytok_("dataset", "add", name, documents, "--metadata", "team=sae", "--json").json()
    assert added["name"] == f"datasets/{name}"
    assert added["state"] == "READY"
    assert added["num_samples"] == len(samples.TEXTS)
    assert added["metadata"] == {"team": "sae"}
    assert {key: value for key, value in added["source"]["files"].items() if value} == {"uris": [str(documents)]}
    assert polytok_("dataset", "show", name, "--json").json() == added
    assert added in polytok_("dataset", "list", "--state", "READY", "--json").json()["datasets"]
    assert polytok_("dataset", "watch", name, "--json").json() == added
    shown = polytok_("dataset", "show", name)
    assert "READY" in shown.out
    assert str(documents) in shown.out
    assert polytok_("dataset", "delete", name, "--json").json() == {"deleted": name}
    assert polytok_("dataset", "show", name).code == 4


def test_relative_paths_are_taken_from_here(
    polytok_: Run, documents: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(documents.parent)
    added = polytok_("dataset", "add", samples.unique("docs"), "docs.jsonl", "--no-watch", "--json").json()
    assert added["source"]["files"]["uris"] == [str(documents)]


def test_how_files_are_read(polytok_: Run, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "notes"
    path.write_text("text\tid\nx\t1\n")
    added = polytok_("dataset", "add", samples.unique("t"), path, "--format=csv", r"--delimiter=\t", "--json").json()
    assert [column["name"] for column in added["columns"]] == ["text", "id"]
    path.write_text('{"train": [{"text": "x"}], "test": [{"text": "y"}, {"text": "z"}]}')
    added = polytok_("dataset", "add", samples.unique("j"), path, "--format=json", "--json-field=test", "--json").json()
    assert (added["state"], added["num_samples"]) == ("READY", 2)
    path.write_text("one\ntwo\n--\nthree\n")
    for options, rows in ((["--text-rows=file"], 1), ([r"--text-separator=\n--\n"], 2), ([], 4)):
        added = polytok_("dataset", "add", samples.unique("x"), path, "--format=text", *options, "--json").json()
        assert (added["state"], added["num_samples"]) == ("READY", rows)


def test_lines_on_a_pipe(polytok_: Run, documents: pathlib.Path) -> None:
    name = samples.unique("docs")
    lines = polytok_("dataset", "add", name, documents).out.splitlines()
    assert f"{name} READY" in lines
    assert all("╭" not in line and line == line.rstrip() for line in lines)


def test_a_failed_dataset(polytok_: Run, tmp_path: pathlib.Path) -> None:
    name = samples.unique("docs")
    (tmp_path / "docs.jsonl").touch()
    failed = polytok_("dataset", "add", name, tmp_path / "docs.jsonl", "--json")
    assert failed.code == 1
    assert json.loads(failed.out)["state"] == "ERROR"
    assert json.loads(failed.err)["error"]["reason"] == "SOURCE_EMPTY"
    samples.write_jsonl(tmp_path / "docs.jsonl")
    assert polytok_("dataset", "retry", name, "--json").json()["state"] == "READY"
    again = polytok_("dataset", "retry", name)
    assert again.code == 5
    assert "READY" in again.err


def test_a_conflict(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, _ = ready
    result = polytok_("dataset", "add", dataset, "/elsewhere.jsonl", "--json")
    assert result.code == 5
    assert result.error()["kind"] == "AlreadyExists"


def test_bad_values(polytok_: Run, documents: pathlib.Path) -> None:
    result = polytok_("dataset", "add", "../docs", documents, "--json")
    assert result.code == 2
    assert result.error()["violations"][0]["field"] == "dataset_id"
    assert polytok_("dataset", "add", "docs").code == 2
    assert polytok_("dataset", "list", "--state", "ripe").code == 2


def test_a_model_from_add_to_delete(polytok_: Run, tmp_path: pathlib.Path) -> None:
    name = samples.unique("model")
    added = polytok_("model", "add", name, samples.write_model(tmp_path / "model"), "--json").json()
    assert added["state"] == "READY"
    assert added["context_length"] == 64
    assert polytok_("model", "show", name, "--json").json() == added
    assert polytok_("model", "watch", name, "--json").json() == added
    assert name in polytok_("model", "list").out
    assert polytok_("model", "delete", name).code == 0
    assert polytok_("model", "show", name).code == 4


def test_a_tokenization_from_tokenize_to_delete(polytok_: Run, documents: pathlib.Path, ready: tuple[str, str]) -> None:
    dataset, (_, model) = samples.unique("docs"), ready
    polytok_("dataset", "add", dataset, documents, "--json").json()
    command = ("tokenize", dataset, "--model", model, "--max-length", "16", "--truncation", "left")
    made = polytok_(*command, "--watch", "--json").json()["tokenizations"]
    assert [each["state"] for each in made] == ["READY"]
    assert made[0]["parameters"]["truncation"] == "LEFT"
    assert polytok_(*command, "--json").json()["tokenizations"] == made
    assert polytok_("tokenization", "list", dataset, "--json").json()["tokenizations"] == made
    assert made[0] in polytok_("tokenization", "list", "--model", model, "--json").json()["tokenizations"]
    for named in ((dataset, model), (f"{dataset}/{model}",), (made[0]["name"],), (made[0]["uid"],)):
        assert polytok_("tokenization", "show", *named, "--json").json() == made[0]
    shown = polytok_("tokenization", "show", dataset, model).out
    first = made[0]["statistics"]["most_frequent_tokens"][0]
    assert f"{first['id']} {first['piece']!r}: {first['count']:,} ({100 * first['share']:.2f} %)\n" in shown
    assert re.search(r"statistics.truncated_share +100.00 %\n", shown)
    assert re.search(r"statistics.padded_share +0.00 %\n", shown)
    path = polytok_("tokenization", "path", dataset, model).out.strip()
    assert path == made[0]["tokenized_path"]
    assert len(datasets.load_from_disk(path)) == len(samples.TEXTS)
    other = polytok_("tokenize", dataset, "--model", model, "--max-length", "32")
    assert other.code == 5
    assert "max_length" in other.err
    assert polytok_("dataset", "delete", dataset).code == 5
    deleted = polytok_("tokenization", "delete", dataset, model, "--json").json()
    assert deleted == {"deleted": made[0]["name"]}
    assert polytok_("tokenization", "path", dataset, model).code == 4
    assert not pathlib.Path(path).exists()


def test_packing_options(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    command = ("tokenize", dataset, "-m", model, "--variant", "packed", "--max-length", "32", "--watch", "--json")
    made = polytok_(*command, "--separator", "eos", "--begin-of-batch", "none").json()["tokenizations"][0]
    assert made["variant"] == "packed"
    assert made["parameters"]["packing"]["separator"] == "EOS"
    assert made["parameters"]["packing"]["begin_of_batch"] == "NONE"
    assert made["statistics"]["min_seq_length"] == made["statistics"]["max_seq_length"] == 32
    assert polytok_("tokenization", "delete", dataset, model, "--variant", "packed").code == 0


def test_wrong_choices(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    result = polytok_("tokenize", dataset, "-m", model, "--separator", "sep")
    assert result.code == 2
    assert [named for named in ("'sep'", "none, bos, eos") if named not in result.err] == []


def test_what_is_not_there(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    assert polytok_("tokenize", dataset, "-m", "absent").code == 4
    assert polytok_("tokenize", "absent", "-m", model).code == 4
    assert polytok_("tokenization", "path", dataset, "absent").code == 4
    assert polytok_("tokenization", "watch", dataset, "absent", "--json").error()["reason"] == "RESOURCE_NOT_FOUND"


def test_status(polytok_: Run, ready: tuple[str, str]) -> None:
    del ready
    document = polytok_("status", "--json").json()
    assert document["datasets"]["READY"] >= 1
    assert document["pids"]["catalog"] > 0
    assert pathlib.Path(document["home"], "stack.json").exists()
    assert isinstance(document["extractions"], dict)
    assert isinstance(document["trainings"], dict)
    shown = polytok_("status").out
    assert "READY" in shown
    assert "extractions" in shown
    assert "trainings" in shown
    assert "unknown" not in shown


def test_status_without_the_other_services(
    polytok_: Run, ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, _ = ready
    address = polytok_("status", "--json").json()["catalog_address"]
    # One that nobody answers for, and one of which nothing is known.
    monkeypatch.setenv("POLYTOK_HOME", "/nonexistent")
    monkeypatch.setenv("POLYTOK_EXTRACTOR_ADDRESS", "127.0.0.1:1")
    document = polytok_("status", "--catalog", address, "--json").json()
    assert document["datasets"]["READY"] >= 1, dataset
    assert (document["extractions"], document["trainings"], document["home"]) == (None, None, None)
    shown = " ".join(polytok_("status", "--catalog", address).out.split())
    assert "extractions unknown: " in shown
    assert "POLYTOK_TRAINER_ADDRESS" in shown


def test_a_second_stack_on_the_same_home(process: Run, stack: "Stack") -> None:
    result = process("up", "--home", stack.home)
    assert (result.code, result.out) == (3, "")
    assert str(stack.home) in result.err
    assert f"kill {stack.facts['pid']}" in result.err


def test_as_a_process(process: Run, ready: tuple[str, str]) -> None:
    dataset, _ = ready
    assert process("dataset", "show", dataset, "--json").json()["name"] == f"datasets/{dataset}"
    assert process("dataset", "show", "absent").code == 4


def test_names_are_completed(process: Run, ready: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, model = ready
    address = process("status", "--json").json()["catalog_address"]
    monkeypatch.setenv("POLYTOK_CATALOG_ADDRESS", address)
    monkeypatch.setattr(shared, "COMPLETION_SECONDS", 5)
    assert (dataset, "READY") in shared.names("datasets", "doc")
    assert shared.names("models", model) == [(model, "READY")]
    assert shared.names("models", "no-such") == []
