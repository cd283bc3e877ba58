"""The tasks that a tokenization begins with."""

import uuid
from datetime import UTC, datetime

import pytest
from google.protobuf import any_pb2

from polytok.tokenizer.v1 import tasks_pb2
from services.catalog.server.domain import records
from services.catalog.server.jobs import tokenizations

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SHARDS = [records.Shard(f"datasets/d/raw/part-{number}.arrow", 10, 100, "0" * 64, 50) for number in range(4)]


def tokenization(**parameters):
    return records.Tokenization(
        id="tok",
        dataset_id=uuid.UUID(int=1),
        model_id="m_00000001",
        variant="",
        parameters=parameters,
        tokenizer_repo_id="/models/gpt2",
        tokenizer_revision="",
        tokenizer_fingerprint="f" * 64,
        chat_template_fingerprint="",
        tokenized_path="datasets/d/raw_tokenized_m",
        vocab_size=1000,
        num_tokens=0,
        num_sequences=0,
        avg_seq_length=0.0,
        statistics={},
        manifest_digest="",
        status="QUEUED",
        progress=0.0,
        error_reason="",
        error_message="",
        error={},
        job_id=None,
        created_at=NOW,
        updated_at=NOW,
        started_at=None,
        completed_at=None,
        shared_from=None,
        dataset_name="docs",
        model_name="gpt2",
    )


def rows(**parameters):
    """Place, number and first row of every task."""
    found = []
    for task in tokenizations.first_tasks(tokenization(**parameters), SHARDS):
        payload = tasks_pb2.TokenizeShardTask()
        assert any_pb2.Any.FromString(task.payload).Unpack(payload)
        assert payload.shard.key == SHARDS[payload.ordinal].key
        found.append((payload.ordinal, payload.count, payload.first_row))
    return found


@pytest.mark.parametrize(("limit", "shards"), [(1, 1), (10, 1), (11, 2), (40, 4), (1000, 4)])
def test_shards_behind_the_limit_are_not_read(limit, shards):
    assert rows(max_documents=str(limit)) == [(place, shards, 10 * place) for place in range(shards)]


def test_all_shards_are_read():
    assert rows() == [(place, 4, 10 * place) for place in range(4)]


@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ({}, "shard"),
        ({"packing": {}}, "encode"),
        ({"packing": {"disable_concatenation": True}}, "shard"),
        # Only one raw shard is left: it is packed in one pass.
        ({"packing": {}, "max_documents": "10"}, "shard"),
        ({"packing": {}, "max_documents": "11"}, "encode"),
        ({"shuffle_seed": "0"}, "encode"),
        ({"filters": {"drop_duplicates": True}}, "encode"),
        ({"filters": {"drop_duplicates": True}, "max_documents": "10"}, "encode"),
        ({"filters": {"min_characters": "3"}, "normalization": "NORMALIZATION_NFC"}, "shard"),
    ],
)
def test_what_depends_on_other_shards_has_stages(parameters, kind):
    tasks = tokenizations.first_tasks(tokenization(**parameters), SHARDS)
    assert {task.kind for task in tasks} == {f"tokenize.{kind}"}


def test_a_sample_is_taken_from_all_shards():
    assert rows(shuffle_seed="3", max_documents="5") == [(place, 4, 10 * place) for place in range(4)]
    (task, *_) = tokenizations.first_tasks(tokenization(shuffle_seed="3"), SHARDS)
    payload = tasks_pb2.TokenizeShardTask()
    assert any_pb2.Any.FromString(task.payload).Unpack(payload)
    assert payload.dataset_rows == 40
