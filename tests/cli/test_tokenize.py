"""The options of `polytok tokenize`, from the command line to the files."""

import json
import pathlib
import types

import datasets
import pytest

from polytok.catalog.v1 import tokenizations_pb2
from polytok.cli.commands import tokenize
from tests.cli.conftest import Run
from tests.client import samples
from tests.tokenizer.test_permutation import shuffled


def test_overflow_and_padding_options(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    options = ("--max-length", "8", "--stride", "2", "--pad", "longest", "--pad-side", "left", "--pad-token", "eos")
    command = ("tokenize", dataset, "-m", model, "--variant", "windows", *options, "--watch", "--json")
    made = polytok_(*command).json()["tokenizations"][0]
    parameters, statistics = made["parameters"], made["statistics"]
    assert (parameters["overflow"], parameters["stride"]) == (True, 2)
    assert parameters["padding"] == {"to": "LONGEST", "side": "LEFT", "token": "EOS"}
    rows = datasets.load_from_disk(made["tokenized_path"])
    assert {len(row) for row in rows["input_ids"]} == {8}
    masks = rows["attention_mask"]
    assert [sum(row) for row in masks] == [8 - row.index(1) for row in masks]
    assert statistics["num_tokens"] == sum(map(sum, masks))
    assert statistics["num_padded"] == sum(row.count(0) for row in masks) > 0
    assert statistics["num_sequences"] > statistics["num_documents"]
    assert polytok_("tokenization", "delete", dataset, model, "--variant", "windows").code == 0


def test_document_starts_option(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    command = ("tokenize", dataset, "-m", model, "--variant", "starts", "--max-length", "64", "--document-starts")
    made = polytok_(*command, "--watch", "--json").json()["tokenizations"][0]
    assert made["parameters"]["packing"]["document_starts"] is True
    starts = datasets.load_from_disk(made["tokenized_path"])["document_starts"]
    assert {row[0] for row in starts} == {0}
    assert max(map(len, starts)) > 1
    assert polytok_("tokenization", "delete", dataset, model, "--variant", "starts").code == 0


def test_document_options(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    options = ("--max-documents", "30", "--keep", "7", "--drop", "77 ships", "--min-characters", "3", "--max-junk", "1")
    command = ("tokenize", dataset, "-m", model, "--variant", "some", *options, "--normalize", "nfc")
    made = polytok_(*command, "--max-characters", "1000", "--watch", "--json").json()["tokenizations"][0]
    parameters, statistics = made["parameters"], made["statistics"]
    assert parameters["filters"] == {
        "min_characters": 3,
        "max_characters": 1000,
        "keep_pattern": "7",
        "drop_pattern": "77 ships",
        "max_junk": 1.0,
        "drop_duplicates": False,
    }
    assert (parameters["normalization"], parameters["max_documents"]) == ("NFC", 30)
    texts = samples.TEXTS[:30]
    kept = [text for text in texts if "7" in text and "77 ships" not in text]
    assert statistics["num_documents"] == 30
    assert statistics["num_unmatched"] == sum("7" not in text for text in texts)
    assert statistics["num_matched"] == sum("77 ships" in text for text in texts) > 0
    assert len(datasets.load_from_disk(made["tokenized_path"])) == statistics["num_sequences"] == len(kept)
    assert polytok_("tokenization", "delete", dataset, model, "--variant", "some").code == 0


def test_shuffled_sample_without_duplicates(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    command = ("tokenize", dataset, "-m", model, "--variant", "sample", "--max-documents", "20", "--drop-duplicates")
    made = polytok_(*command, "--shuffle-seed", "5", "--watch", "--json").json()["tokenizations"][0]
    parameters, statistics = made["parameters"], made["statistics"]
    assert (parameters["shuffle_seed"], parameters["max_documents"]) == (5, 20)
    assert parameters["filters"]["drop_duplicates"] is True
    rows = shuffled(5, len(samples.TEXTS))[:20]
    texts = [samples.TEXTS[row] for row in rows]
    assert statistics["num_documents"] == 20
    assert statistics.get("num_duplicates", 0) == len(texts) - len(set(texts))
    other = polytok_(*command, "--shuffle-seed", "6")
    assert other.code == 5
    assert "shuffle_seed 5, not 6" in " ".join(other.err.split())
    assert polytok_("tokenization", "delete", dataset, model, "--variant", "sample").code == 0


def test_lengths_are_shown(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    command = ("tokenize", dataset, "-m", model, "--variant", "lengths", "--max-length", "8", "--watch", "--json")
    made = polytok_(*command).json()["tokenizations"][0]
    assert made["statistics"]["length_histogram"] == [0, 0, 0, 0, len(samples.TEXTS)]
    assert made["statistics"]["median_seq_length"] == 8
    shown = polytok_("tokenization", "show", dataset, model, "--variant", "lengths").out
    assert f"8 to 15 tokens: {len(samples.TEXTS)}" in shown
    assert polytok_("tokenization", "delete", dataset, model, "--variant", "lengths").code == 0


def test_nothing_is_made_where_a_model_is_missing(polytok_: Run, ready: tuple[str, str]) -> None:
    dataset, model = ready
    command = ("tokenize", dataset, "--variant", "none", "-m", model)
    failed = polytok_(*command, "-m", "absent", "--json")
    assert failed.code == 4
    assert "absent" in failed.error()["message"]
    assert polytok_("tokenization", "show", dataset, model, "--variant", "none").code == 4


def test_records_made_before_an_error_are_reported(
    polytok_: Run, ready: tuple[str, str], tmp_path: pathlib.Path
) -> None:
    dataset, model = ready
    broken = samples.unique("broken")
    (tmp_path / "empty").mkdir()
    assert polytok_("model", "add", broken, tmp_path / "empty").code == 1
    command = ("tokenize", dataset, "--variant", "some", "-m", model, "-m", f"models/{model}", "-m", broken)
    failed = polytok_(*command, "--json")
    assert failed.code == 5
    made = json.loads(failed.out)["tokenizations"]
    assert [each["name"] for each in made] == [f"datasets/{dataset}/tokenizations/{model}~some"]
    assert broken in json.loads(failed.err)["error"]["message"]
    failed = polytok_(*command)
    assert f"{model}~some" in failed.out
    assert failed.err.startswith("Error: ")
    assert polytok_("tokenization", "delete", dataset, model, "--variant", "some").code == 0


@pytest.mark.parametrize(("separator", "is_told"), [("NONE", True), ("BOS", False)])
def test_no_separator_is_reported(separator: str, is_told: bool) -> None:
    reported: list[str] = []
    run = types.SimpleNamespace(out=types.SimpleNamespace(remark=reported.append))
    packed = tokenizations_pb2.Tokenization(name="datasets/docs/tokenizations/qwen~packed")
    packed.parameters.packing.separator = tokenizations_pb2.Packing.Boundary.Value(f"BOUNDARY_{separator}")
    plain = tokenizations_pb2.Tokenization(name="datasets/docs/tokenizations/other")
    tokenize._print_unseparated(run, [packed, plain])
    assert [("qwen" in text, "--separator eos" in text) for text in reported] == [(True, True)] * is_told
