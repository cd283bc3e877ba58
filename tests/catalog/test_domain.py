"""The rules of the catalog that need no server: names, states, parameters, and what errors name."""

import re
import uuid
from datetime import UTC, datetime

import pytest
from google.protobuf import json_format

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tokenizations_pb2
from services.catalog.server.domain import columns, names, not_found, parameters, records, sources, states
from services.records import etags
from tests.support.messages import check_names

NOW = datetime(2026, 1, 2, tzinfo=UTC)
Parameters = tokenizations_pb2.TokenizationParameters
Packing = tokenizations_pb2.Packing
Padding = tokenizations_pb2.Padding
Filters = tokenizations_pb2.Filters


def dataset(**columns):
    return records.Dataset(
        id=uuid.UUID(int=1),
        name="docs",
        source={},
        raw_path="datasets/x/raw",
        num_samples=3,
        size_bytes=9,
        num_shards=1,
        columns=[{"name": name, "type": kind} for name, kind in columns.items()],
        features={},
        fingerprint="",
        commit="",
        status="READY",
        progress=100,
        error_reason="",
        error_message="",
        error={},
        metadata={},
        job_id=None,
        created_at=NOW,
        updated_at=NOW,
        completed_at=NOW,
    )


def model(context_length=2048, roles=("bos_token", "eos_token")):
    return records.Model(
        id="m_00000001",
        name="gpt2",
        repo_id="openai/gpt2",
        revision="",
        commit="",
        tokenizer_repo_id="",
        tokenizer_commit="",
        tokenizer_fingerprint="f",
        chat_template_fingerprint="",
        tokenizer_class="",
        vocab_size=10,
        special_tokens=[{"role": role, "text": "", "id": 0} for role in roles],
        architecture="",
        d_model=0,
        n_layers=0,
        context_length=context_length,
        status="READY",
        error_reason="",
        error_message="",
        error={},
        metadata={},
        job_id=None,
        created_at=NOW,
        updated_at=NOW,
    )


def completed(asked=None, of=None, for_model=None):
    return parameters.apply_defaults(asked or Parameters(), of or dataset(text="string"), for_model or model())


def test_names_are_read_as_they_are_made():
    name = names.tokenization("docs", "gpt2", "packed")
    assert name == "datasets/docs/tokenizations/gpt2~packed"
    assert names.parse_tokenization(name) == ("docs", "gpt2", "packed")
    assert names.parse_tokenization("datasets/docs/tokenizations/gpt2") == ("docs", "gpt2", "")
    assert names.parse_dataset("datasets/docs") == "docs"
    assert names.parse_parent("datasets/-") == names.ANY
    assert names.parse_model("models/gpt2") == "gpt2"


@pytest.mark.parametrize("name", ["", "docs", "datasets/", "datasets/../x", "datasets/a/b", "datasets/A"])
def test_malformed_names_are_refused(name):
    with pytest.raises(errors.InvalidArgument) as caught:
        names.parse_dataset(name)
    assert [violation.field for violation in caught.value.violations] == ["name"]
    check_names(caught.value.message, repr(name))


def test_uids_and_keys_follow_the_design():
    uid = uuid.UUID(int=7)
    assert names.tokenization_uid(uid, "m_00000001", "") == f"tok_{uid}_m_00000001"
    assert names.tokenization_uid(uid, "m_00000001", "v") == f"tok_{uid}_m_00000001_v"
    raw = names.raw_key(uid)
    assert raw == f"datasets/{uid}/raw"
    assert names.tokenized_key(raw, "m_00000001", "") == f"{raw}_tokenized_m_00000001"
    assert names.tokenized_key(raw, "m_00000001", "v") == f"{raw}_tokenized_m_00000001_v"
    assert names.is_model_uid(names.new_model_uid())
    assert names.dataset_uid(str(uid)) == uid
    assert names.dataset_uid("docs") is None
    assert names.dataset_uid("x" * 36) is None


def test_every_default_is_filled_in():
    assert completed() == Parameters(
        text_column="text",
        column_choice=columns.CALLED_TEXT,
        max_length=2048,
        truncation=Parameters.TRUNCATION_RIGHT,
        add_special_tokens=True,
    )
    assert completed(for_model=model(context_length=0)).max_length == 1024


def test_packing_brings_its_own_defaults():
    assert completed(Parameters(packing=Packing())) == Parameters(
        text_column="text",
        column_choice=columns.CALLED_TEXT,
        max_length=2048,
        truncation=Parameters.TRUNCATION_NONE,
        add_special_tokens=False,
        packing=Packing(
            begin_of_batch=Packing.BOUNDARY_BOS,
            begin_of_sequence=Packing.BOUNDARY_NONE,
            separator=Packing.BOUNDARY_BOS,
        ),
    )
    assert completed(Parameters(packing=Packing(), add_special_tokens=True)).add_special_tokens


def test_packing_without_the_boundary_token():
    found = completed(Parameters(packing=Packing()), for_model=model(roles=("eos_token",))).packing
    assert (found.begin_of_batch, found.separator) == (Packing.BOUNDARY_NONE, Packing.BOUNDARY_NONE)


def test_completing_twice_changes_nothing():
    for asked in (Parameters(), Parameters(packing=Packing(disable_concatenation=True))):
        once = completed(asked)
        assert completed(once) == once


def test_the_only_column_of_text_is_taken():
    assert completed(of=dataset(id="int64", body="large_string")).text_column == "body"


@pytest.mark.parametrize(
    ("of", "asked", "reason", "metadata", "expected"),
    [
        (
            {"id": "int64", "text": "string"},
            "txt",
            "COLUMN_NOT_FOUND",
            {"columns": "id, text"},
            ("'txt'", "id, text", "'text'"),
        ),
        (
            {"label": "int64", "text": "string"},
            "label",
            "COLUMN_INVALID",
            {"column": "label", "type": "int64"},
            ("'label'", "int64", "text"),
        ),
        ({"text": "null"}, "", "COLUMN_INVALID", {"column": "text", "type": "null"}, ("'text'", "nulls")),
        (
            {"a": "string", "b": "string"},
            "",
            "COLUMN_NOT_FOUND",
            {"columns": "a, b"},
            ("several", "a, b", "--column", "text_column"),
        ),
        (
            {"a": "int64", "b": "list<item: string>"},
            "",
            "COLUMN_NOT_FOUND",
            {"columns": "a, b"},
            ("no column", "a, b"),
        ),
    ],
)
def test_columns_without_text_are_refused(of, asked, reason, metadata, expected):
    with pytest.raises(errors.InvalidArgument) as caught:
        completed(Parameters(text_column=asked), dataset(**of))
    assert (caught.value.reason, caught.value.metadata) == (reason, metadata)
    check_names(caught.value.message, "datasets/docs", *expected)
    assert caught.value.violations[0].field == "parameters.text_column"


@pytest.mark.parametrize(
    ("asked", "for_model", "field", "expected"),
    [
        (Parameters(max_length=4096), model(), "max_length", (4096, 2048)),
        (Parameters(max_length=1, packing=Packing()), model(), "max_length", (1, 2)),
        (
            Parameters(packing=Packing(begin_of_batch=Packing.BOUNDARY_BOS)),
            model(roles=()),
            "packing.begin_of_batch",
            ("bos_token", "BOUNDARY_NONE"),
        ),
        (
            Parameters(packing=Packing(separator=Packing.BOUNDARY_BOS)),
            model(roles=("eos_token",)),
            "packing.separator",
            ("bos_token", "BOUNDARY_EOS", "BOUNDARY_NONE"),
        ),
        (
            Parameters(packing=Packing(separator=Packing.BOUNDARY_EOS)),
            model(roles=("bos_token",)),
            "packing.separator",
            ("eos_token", "BOUNDARY_BOS", "BOUNDARY_NONE"),
        ),
    ],
)
def test_impossible_parameters_are_refused(asked, for_model, field, expected):
    with pytest.raises(errors.InvalidArgument) as caught:
        completed(asked, for_model=for_model)
    assert [violation.field for violation in caught.value.violations] == [f"parameters.{field}"]
    check_names(caught.value.message, f"parameters.{field}", *expected)


@pytest.mark.parametrize(
    ("asked", "field", "expected"),
    [
        (Parameters(stride=3), "stride", ("overflow",)),
        (Parameters(overflow=True, packing=Packing()), "overflow", ("packing",)),
        (Parameters(overflow=True, truncation=Parameters.TRUNCATION_NONE), "overflow", ("truncation",)),
        (Parameters(overflow=True, max_length=8, stride=8), "stride", (8, "max_length")),
        (
            Parameters(packing=Packing(document_starts=True, disable_concatenation=True)),
            "packing.document_starts",
            ("one document",),
        ),
        (
            Parameters(filters=Filters(min_characters=9, max_characters=8)),
            "filters.max_characters",
            (8, "min_characters", 9),
        ),
        (Parameters(filters=Filters(drop_pattern="a\0b")), "filters.drop_pattern", ("NUL",)),
        (Parameters(padding=Padding(), packing=Packing()), "padding", ("packing",)),
        (
            Parameters(padding=Padding(to=Padding.TO_LONGEST), truncation=Parameters.TRUNCATION_NONE),
            "padding.to",
            ("truncation NONE",),
        ),
        (Parameters(padding=Padding(token=Padding.TOKEN_PAD)), "padding.token", ("pad_token", "TOKEN_EOS")),
    ],
)
def test_contradictory_options_are_refused(asked, field, expected):
    with pytest.raises(errors.InvalidArgument) as caught:
        completed(asked)
    assert [violation.field for violation in caught.value.violations] == [f"parameters.{field}"]
    check_names(caught.value.message, f"parameters.{field}", *expected)


def test_filters_that_filter_nothing_are_none():
    assert completed(Parameters(filters=Filters())) == completed()


def test_padding_token_or_else_eos():
    asked = Parameters(padding=Padding())
    right, to = Padding.SIDE_RIGHT, Padding.TO_MAX_LENGTH
    assert completed(asked).padding == Padding(to=to, side=right, token=Padding.TOKEN_EOS)
    padded = model(roles=("pad_token", "eos_token"))
    assert completed(asked, for_model=padded).padding == Padding(to=to, side=right, token=Padding.TOKEN_PAD)
    with pytest.raises(errors.InvalidArgument) as caught:
        completed(asked, for_model=model(roles=("bos_token",)))
    check_names(caught.value.message, "models/gpt2", "pad_token", "eos_token")


@pytest.mark.parametrize(
    "other",
    [
        Parameters(overflow=True),
        Parameters(overflow=True, stride=3),
        Parameters(packing=Packing(document_starts=True)),
        Parameters(filters=Filters(min_characters=3)),
        Parameters(filters=Filters(max_junk=0.0)),
        Parameters(filters=Filters(keep_pattern="x"), packing=Packing()),
        Parameters(normalization=Parameters.NORMALIZATION_NFC),
        Parameters(max_documents=5),
        Parameters(padding=Padding()),
        Parameters(padding=Padding(side=Padding.SIDE_LEFT)),
    ],
)
def test_every_option_makes_another_tokenization(other):
    assert completed(completed(other)) == completed(other)
    one, two = parameters.as_fields(completed()), parameters.as_fields(completed(other))
    assert sources.differences(one, two)
    # A record keeps its parameters as JSON.
    stored = json_format.ParseDict(json_format.MessageToDict(completed(other)), Parameters())
    assert sources.differences(parameters.as_fields(stored), two) == []


def test_a_model_without_a_context_length_takes_any():
    assert completed(Parameters(max_length=524288), for_model=model(context_length=0)).max_length == 524288


def test_differences_name_each_field():
    one = parameters.as_fields(completed(Parameters(max_length=512)))
    other = parameters.as_fields(completed(Parameters(max_length=1024, packing=Packing())))
    assert sources.differences(one, one) == []
    found = sources.differences(one, other)
    expected = [("max_length", 512, 1024), ("add_special_tokens", True, False), ("packing", False, True)]
    for text, (field, existing, asked) in zip(found, expected, strict=False):
        assert re.fullmatch(rf"{field}\b.*\b{existing}\b.*\b{asked}", text)


def test_long_lists_are_shortened():
    one = sources.as_fields({"files": {"uris": [f"/{number}" for number in range(10)]}})
    other = sources.as_fields({"files": {"uris": ["/x"]}})
    (differing,) = sources.differences(one, other)
    check_names(differing, "uris", "'/0', '/1', '/2'", 7, "'/x'")
    assert "/3" not in differing


@pytest.mark.parametrize(
    "uri", ["/a/b.jsonl", "s3://bucket/x", "file:///a", "zip://x.csv::/a.zip", "https://host/a.parquet"]
)
def test_absolute_paths_and_uris_are_taken(uri):
    sources.check_dataset(datasets_pb2.DatasetSource(files=datasets_pb2.FileSource(uris=[uri])))


@pytest.mark.parametrize("repo_id", ["gpt2", "openai/gpt2", "/models/gpt2", "org/a..b"])
def test_repositories_are_taken(repo_id):
    sources.check_repository("model.repo_id", repo_id)


@pytest.mark.parametrize("repo_id", ["./gpt2", "../gpt2", "~/gpt2", "/models/../etc", "/models/.."])
def test_relative_repositories_are_refused(repo_id):
    with pytest.raises(errors.InvalidArgument) as caught:
        sources.check_repository("model.repo_id", repo_id)
    assert [violation.field for violation in caught.value.violations] == ["model.repo_id"]
    check_names(caught.value.message, repr(repo_id), "relative")


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("DOWNLOADING", ("`polytok dataset watch docs`",)),
        ("ERROR", ("`polytok dataset retry docs`", "Gone.")),
        ("CANCELLED", ("`polytok dataset retry docs`",)),
    ],
)
def test_not_ready_names_the_command_to_run(status, expected):
    with pytest.raises(errors.FailedPrecondition) as caught:
        states.DATASET.require_ready("datasets/docs", "docs", status, "Gone.")
    assert caught.value.reason == "NOT_READY"
    assert caught.value.metadata == {"resource": "datasets/docs", "state": status}
    check_names(caught.value.message, "datasets/docs", status, *expected)
    states.DATASET.require_ready("datasets/docs", "docs", "READY", "")


def test_no_suggestion_without_a_close_name():
    error = not_found.dataset("docs", ["wikipedia"])
    assert error.metadata == {"resource": "datasets/docs"}
    check_names(error.message, "'docs'", "`polytok dataset list`")
    assert "wikipedia" not in error.message


def test_etag_changes_with_the_record():
    later = NOW.replace(microsecond=1)
    assert etags.make("a", NOW) == etags.make("a", NOW)
    assert len({etags.make("a", NOW), etags.make("a", later), etags.make("b", NOW)}) == 3
