"""The rules of the catalog that need no server: names, states, parameters, and the sentences that users read."""

import uuid
from datetime import UTC, datetime

import pytest
from google.protobuf import json_format

from polytok import errors
from polytok.catalog.v1 import datasets_pb2, tokenizations_pb2
from services.catalog.server.domain import names, not_found, parameters, records, sources, states
from services.records import etags

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
def test_names_of_another_form_are_refused(name):
    with pytest.raises(errors.InvalidArgument, match="is not of the form"):
        names.parse_dataset(name)


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
        column_choice="its name is `text`",
        max_length=2048,
        truncation=Parameters.TRUNCATION_RIGHT,
        add_special_tokens=True,
    )
    assert completed(for_model=model(context_length=0)).max_length == 1024


def test_packing_brings_its_own_defaults():
    assert completed(Parameters(packing=Packing())) == Parameters(
        text_column="text",
        column_choice="its name is `text`",
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


def test_packing_takes_no_token_for_one_that_the_tokenizer_has_not():
    found = completed(Parameters(packing=Packing()), for_model=model(roles=("eos_token",))).packing
    assert (found.begin_of_batch, found.separator) == (Packing.BOUNDARY_NONE, Packing.BOUNDARY_NONE)


def test_completing_twice_changes_nothing():
    for asked in (Parameters(), Parameters(packing=Packing(disable_concatenation=True))):
        once = completed(asked)
        assert completed(once) == once


def test_the_only_column_of_text_is_taken():
    assert completed(of=dataset(id="int64", body="large_string")).text_column == "body"


@pytest.mark.parametrize(
    ("columns", "asked", "reason", "message"),
    [
        (
            {"id": "int64", "text": "string"},
            "txt",
            "COLUMN_NOT_FOUND",
            "datasets/docs has no column 'txt'; it has: id, text. Did you mean 'text'?",
        ),
        (
            {"label": "int64", "text": "string"},
            "label",
            "COLUMN_INVALID",
            "Column 'label' of datasets/docs holds int64, not text. Columns of text: text.",
        ),
        (
            {"text": "null"},
            "",
            "COLUMN_INVALID",
            "Column 'text' of datasets/docs holds nothing but nulls, not text. No column of it holds text.",
        ),
        (
            {"a": "string", "b": "string"},
            "",
            "COLUMN_NOT_FOUND",
            "datasets/docs has several columns of text: a, b. Name the one to tokenize: `--column NAME` on the command "
            "line, `text_column` in a request.",
        ),
        (
            {"a": "int64", "b": "list<item: string>"},
            "",
            "COLUMN_NOT_FOUND",
            "datasets/docs has no column of text; it has: a, b.",
        ),
    ],
)
def test_columns_that_hold_no_text_are_refused(columns, asked, reason, message):
    with pytest.raises(errors.InvalidArgument) as caught:
        completed(Parameters(text_column=asked), dataset(**columns))
    assert caught.value.message == message
    assert caught.value.reason == reason
    assert caught.value.violations[0].field == "parameters.text_column"


@pytest.mark.parametrize(
    ("asked", "for_model", "message"),
    [
        (
            Parameters(max_length=4096),
            model(),
            "parameters.max_length: 4096 is more than the 2048 tokens that models/gpt2 takes; ask for at most 2048.",
        ),
        (
            Parameters(max_length=1, packing=Packing()),
            model(),
            "parameters.max_length: 1 leaves no room for text after the token that begins every sequence; "
            "ask for 2 or more.",
        ),
        (
            Parameters(packing=Packing(begin_of_batch=Packing.BOUNDARY_BOS)),
            model(roles=()),
            "parameters.packing.begin_of_batch: the tokenizer of models/gpt2 has no bos_token; "
            "set begin_of_batch to BOUNDARY_NONE.",
        ),
        (
            Parameters(packing=Packing(separator=Packing.BOUNDARY_BOS)),
            model(roles=("eos_token",)),
            "parameters.packing.separator: the tokenizer of models/gpt2 has no bos_token; "
            "set separator to BOUNDARY_EOS or BOUNDARY_NONE.",
        ),
        (
            Parameters(packing=Packing(separator=Packing.BOUNDARY_EOS)),
            model(roles=("bos_token",)),
            "parameters.packing.separator: the tokenizer of models/gpt2 has no eos_token; "
            "set separator to BOUNDARY_BOS or BOUNDARY_NONE.",
        ),
    ],
)
def test_parameters_that_cannot_work_are_refused(asked, for_model, message):
    with pytest.raises(errors.InvalidArgument) as caught:
        completed(asked, for_model=for_model)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("asked", "field", "told"),
    [
        (Parameters(stride=3), "stride", "means nothing without overflow"),
        (Parameters(overflow=True, packing=Packing()), "overflow", "does not go with packing"),
        (Parameters(overflow=True, truncation=Parameters.TRUNCATION_NONE), "overflow", "leaves nothing over"),
        (Parameters(overflow=True, max_length=8, stride=8), "stride", "8 is not less than max_length, 8"),
        (
            Parameters(packing=Packing(document_starts=True, disable_concatenation=True)),
            "packing.document_starts",
            "every sequence is of one document",
        ),
        (
            Parameters(filters=Filters(min_characters=9, max_characters=8)),
            "filters.max_characters",
            "8 is less than min_characters, 9",
        ),
        (Parameters(filters=Filters(drop_pattern="a\0b")), "filters.drop_pattern", "holds a NUL character"),
        (Parameters(padding=Padding(), packing=Packing()), "padding", "does not go with packing"),
        (
            Parameters(padding=Padding(to=Padding.TO_LONGEST), truncation=Parameters.TRUNCATION_NONE),
            "padding.to",
            "does not go with truncation NONE",
        ),
        (
            Parameters(padding=Padding(token=Padding.TOKEN_PAD)),
            "padding.token",
            "has no pad_token; set token to TOKEN_EOS",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(asked, field, told):
    with pytest.raises(errors.InvalidArgument, match=told) as caught:
        completed(asked)
    assert [violation.field for violation in caught.value.violations] == [f"parameters.{field}"]


def test_filters_that_filter_nothing_are_none():
    assert completed(Parameters(filters=Filters())) == completed()


def test_padding_takes_the_padding_token_or_else_the_end():
    asked = Parameters(padding=Padding())
    right, to = Padding.SIDE_RIGHT, Padding.TO_MAX_LENGTH
    assert completed(asked).padding == Padding(to=to, side=right, token=Padding.TOKEN_EOS)
    padded = model(roles=("pad_token", "eos_token"))
    assert completed(asked, for_model=padded).padding == Padding(to=to, side=right, token=Padding.TOKEN_PAD)
    with pytest.raises(errors.InvalidArgument, match="has no pad_token and no eos_token to pad with"):
        completed(asked, for_model=model(roles=("bos_token",)))


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


def test_what_differs_is_named_field_by_field():
    one = parameters.as_fields(completed(Parameters(max_length=512)))
    other = parameters.as_fields(completed(Parameters(max_length=1024, packing=Packing())))
    assert sources.differences(one, one) == []
    assert sources.differences(one, other)[:3] == [
        "max_length 512, not 1024",
        "add_special_tokens True, not False",
        "packing False, not True",
    ]


def test_long_lists_are_cut_short():
    one = sources.as_fields({"files": {"uris": [f"/{number}" for number in range(10)]}})
    other = sources.as_fields({"files": {"uris": ["/x"]}})
    assert sources.differences(one, other) == ["uris '/0', '/1', '/2' and 7 more, not '/x'"]


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
    with pytest.raises(errors.InvalidArgument, match="is a relative path"):
        sources.check_repository("model.repo_id", repo_id)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            "DOWNLOADING",
            "datasets/docs is DOWNLOADING; wait until it is READY: `polytok dataset watch docs` shows how far it is.",
        ),
        (
            "ERROR",
            "datasets/docs is ERROR; mend the cause and try again with `polytok dataset retry docs`. Its error: Gone.",
        ),
        ("CANCELLED", "datasets/docs is CANCELLED; start it again with `polytok dataset retry docs`."),
    ],
)
def test_what_is_not_ready_says_what_to_do(status, message):
    with pytest.raises(errors.FailedPrecondition) as caught:
        states.DATASET.require_ready("datasets/docs", "docs", status, "Gone.")
    assert caught.value.message == message
    assert caught.value.reason == "NOT_READY"
    states.DATASET.require_ready("datasets/docs", "docs", "READY", "")


def test_a_name_like_no_other_suggests_none():
    assert not_found.dataset("docs", ["wikipedia"]).message == (
        "No dataset is called 'docs'. `polytok dataset list` shows the datasets that exist."
    )


def test_the_etag_changes_with_the_record_alone():
    later = NOW.replace(microsecond=1)
    assert etags.make("a", NOW) == etags.make("a", NOW)
    assert len({etags.make("a", NOW), etags.make("a", later), etags.make("b", NOW)}) == 3
