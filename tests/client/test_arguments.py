"""What the client makes of its arguments before it asks the catalog."""

import pathlib

import pytest

from polytok import errors
from polytok.catalog.v1 import datasets_pb2
from polytok.catalog.v1 import tokenizations_pb2 as pb
from polytok.client import source_arguments, tokenization_arguments, training_arguments


def test_parameters_as_words() -> None:
    message = tokenization_arguments.to_message(
        {"max_length": 8, "truncation": "left", "add_special_tokens": False, "packing": {"separator": "eos"}}
    )
    assert message == pb.TokenizationParameters(
        max_length=8,
        truncation=pb.TokenizationParameters.TRUNCATION_LEFT,
        add_special_tokens=False,
        packing=pb.Packing(separator=pb.Packing.BOUNDARY_EOS),
    )


def test_what_is_not_given_is_not_sent() -> None:
    assert tokenization_arguments.to_message({"overflow": True, "stride": 3}) == pb.TokenizationParameters(
        overflow=True, stride=3
    )
    assert tokenization_arguments.to_message({"packing": {"document_starts": True}}).packing == pb.Packing(
        document_starts=True
    )
    cleaned = tokenization_arguments.to_message(
        {"normalization": "nfkc", "max_documents": 9, "filters": {"drop_pattern": "x", "max_junk": 0.0}}
    )
    assert cleaned == pb.TokenizationParameters(
        normalization=pb.TokenizationParameters.NORMALIZATION_NFKC,
        max_documents=9,
        filters=pb.Filters(drop_pattern="x", max_junk=0.0),
    )
    assert tokenization_arguments.to_message({"padding": "longest"}).padding == pb.Padding(to=pb.Padding.TO_LONGEST)
    assert tokenization_arguments.to_message({"padding": {"side": "left", "token": "eos"}}).padding == pb.Padding(
        side=pb.Padding.SIDE_LEFT, token=pb.Padding.TOKEN_EOS
    )
    assert tokenization_arguments.to_message({}) == pb.TokenizationParameters()
    assert tokenization_arguments.to_message({"packing": True}).HasField("packing")
    assert not tokenization_arguments.to_message({"packing": False}).HasField("packing")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"max_len": 8}, ["parameter", "'max_len'", "text_column, chat, max_length"]),
        ({"truncation": "middle"}, ["truncation", "'middle'", "right, left, none"]),
        ({"packing": {"seperator": "eos"}}, ["packing", "'seperator'", "separator"]),
        ({"packing": {"separator": "sep"}}, ["'sep'", "none, bos, eos"]),
        ({"normalization": "nfd"}, ["normalization", "'nfd'", "nfc, nfkc"]),
        ({"filters": {"min_words": 3}}, ["filters", "'min_words'", "min_characters"]),
        ({"padding": "left"}, ["'left'", "max_length, longest"]),
        ({"padding": {"length": 3}}, ["padding", "'length'", "side"]),
        ({"padding": 3}, ["padding", "dict", "not 3"]),
        ({"filters": "short"}, ["filters", "dict", "'short'"]),
    ],
)
def test_wrong_parameters(given: tokenization_arguments.Parameters, named: list[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        tokenization_arguments.to_message(given)
    assert caught.value.reason == "INVALID_FIELD"
    assert [each for each in named if each not in caught.value.message] == []


@pytest.mark.parametrize(
    ("given", "field", "named"),
    [
        ({"filters": {"min_characters": 2**63}}, "min_characters", ["9223372036854775808", "9223372036854775807"]),
        ({"max_length": 2**40}, "max_length", ["1099511627776", "-2147483648", "2147483647"]),
        ({"max_length": "many"}, "max_length", ["'many'", "integer"]),
    ],
)
def test_values_out_of_range(given: tokenization_arguments.Parameters, field: str, named: list[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        tokenization_arguments.to_message(given)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert [each for each in [field, *named] if each not in caught.value.message] == []


def test_an_autoencoder_is_topk_unless_it_is_said() -> None:
    unsaid = training_arguments.to_message({"hook": "blocks.0.hook_resid_post", "d_sae": 64, "k": 4})
    assert unsaid == training_arguments.to_message(
        {"hook": "blocks.0.hook_resid_post", "d_sae": 64, "k": 4, "architecture": "topk"}
    )
    assert unsaid.WhichOneof("architecture") == "topk"
    assert unsaid.topk.k == 4
    with pytest.raises(errors.InvalidArgument) as caught:
        training_arguments.to_message({"hook": "blocks.0.hook_resid_post", "d_sae": 64, "architecture": ""})  # type: ignore[typeddict-item]
    for named in ("''", "architecture", "standard, gated, topk"):
        assert named in caught.value.message


def test_paths_become_absolute_and_uris_stay(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["a.jsonl", "../b/*.csv", pathlib.Path("c"), "s3://bucket/d.parquet", "/e"]
    source = source_arguments.dataset(given, None, None, None, None, None)
    parent = tmp_path.parent
    assert list(source.files.uris) == [
        f"{tmp_path}/a.jsonl",
        f"{parent}/b/*.csv",
        f"{tmp_path}/c",
        "s3://bucket/d.parquet",
        "/e",
    ]


def test_repositories_and_folders(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert source_arguments.repository("model") == str(tmp_path / "model")
    assert source_arguments.repository("./absent") == str(tmp_path / "absent")
    assert source_arguments.repository("openai-community/gpt2") == "openai-community/gpt2"


def test_how_files_are_read() -> None:
    source = source_arguments.dataset("/a", "tsv", None, None, None, None)
    assert source.files == datasets_pb2.FileSource(
        uris=["/a"], format=datasets_pb2.FileSource.FORMAT_CSV, delimiter="\t"
    )
    options = source_arguments.FileOptions(delimiter="|", json_field="rows")
    source = source_arguments.dataset("/a", None, None, None, None, None, options)
    assert (source.files.delimiter, source.files.json_field) == ("|", "rows")
    options = source_arguments.FileOptions(text_separator="\n---\n")
    source = source_arguments.dataset("/a", "text", None, None, None, None, options)
    assert source.files.text_rows == datasets_pb2.FileSource.TEXT_ROWS_SEPARATED
    assert source.files.text_separator == "\n---\n"
    with pytest.raises(errors.InvalidArgument, match=r"'page'.*line, file, separated"):
        source_arguments.dataset("/a", None, None, None, None, None, source_arguments.FileOptions(text_rows="page"))
    with pytest.raises(errors.InvalidArgument, match=r"text_rows.*text_separator"):
        source_arguments.dataset(None, None, "org/name", "train", None, None, options)


def test_a_hub_source() -> None:
    source = source_arguments.dataset(None, None, "org/name", "train", "en", "main")
    assert source.hub == datasets_pb2.HubSource(repo_id="org/name", split="train", config="en", revision="main")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((None, None, None, None, None, None), ["either", "files", "hub"]),
        (("a", None, "org/name", "train", None, None), ["either", "files", "hub"]),
        ((None, None, "org/name", None, None, None), ["hub", "a split"]),
        ((None, "csv", "org/name", "train", None, None), ["format", "files", "hub"]),
        (("a", None, None, "train", None, None), ["split", "config", "revision", "hub"]),
        (("a", "yaml", None, None, None, None), ["format", "'yaml'", "jsonl, csv, parquet, text, arrow, json, tsv"]),
    ],
)
def test_wrong_sources(arguments: tuple[str | None, ...], named: list[str]) -> None:
    with pytest.raises(errors.InvalidArgument) as caught:
        source_arguments.dataset(*arguments)
    assert [each for each in named if each not in caught.value.message] == []
