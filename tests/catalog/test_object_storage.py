"""A dataset from s3:// and an s3:// storage: the real catalog and the real workers, and the rows loaded back."""

import asyncio
import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import datasets
import pytest
from transformers import AutoTokenizer

import polytok
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime import storage as storages
from tests.catalog import harness
from tests.client import samples
from tests.support import s3

READY = tokenizations_pb2.Tokenization.STATE_READY
WORKERS = (("services.catalog", "ingest"), ("services.tokenizer",))


@pytest.fixture
def storage(bucket: str) -> storages.Storage:
    return storages.Storage(f"s3://{bucket}/polytok")


@pytest.fixture
def workers(
    catalog: harness.CatalogHarness, s3_server: s3.Server, bucket: str, messaging_settings, tmp_path: pathlib.Path
) -> Iterator[pathlib.Path]:
    """Both kinds of workers, as a deployment starts them; gives the folder of their cache."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POLYTOK_")}
    environment |= s3_server.environment | {
        "POLYTOK_CATALOG_ADDRESS": catalog.address,
        "POLYTOK_NATS_URL": messaging_settings.url,
        "POLYTOK_NATS_NAMESPACE": messaging_settings.namespace,
        "POLYTOK_STORAGE_ROOT": f"s3://{bucket}/polytok",
        "POLYTOK_STORAGE_CACHE": str(tmp_path / "cache"),
        "POLYTOK_LOG_LEVEL": "info",
        "HF_HUB_OFFLINE": "1",
    }
    with (tmp_path / "workers.log").open("wb") as log, contextlib.ExitStack() as stack:
        for module in WORKERS:
            process = subprocess.Popen([sys.executable, "-m", *module], env=environment, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        yield tmp_path / "cache"
    assert b"not-a-secret" not in (tmp_path / "workers.log").read_bytes()


@contextlib.contextmanager
def _client(catalog: harness.CatalogHarness) -> Iterator[polytok.Client]:
    with polytok.Client(catalog.address) as client:
        yield client


def _damage_and_repair(user: polytok.Client, made: tokenizations_pb2.Tokenization, client: Any, bucket: str) -> None:
    prefix = made.tokenized_path.removeprefix(f"s3://{bucket}/")
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    whole = {each["Key"]: client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed}
    bad = next(key for key in whole if key.endswith(".arrow"))
    client.put_object(Bucket=bucket, Key=bad, Body=whole[bad][:-1] + b"x")
    client.delete_object(Bucket=bucket, Key=f"{prefix}/state.json")
    *_, repair = user.tokenizations.repairing(user.tokenizations.repair(made))
    assert (repair.num_remade, len(repair.damages), list(repair.changes)) == (1, 2, []), repair
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]
    assert {each["Key"]: client.get_object(Bucket=bucket, Key=each["Key"])["Body"].read() for each in listed} == whole


def _use(catalog: harness.CatalogHarness, bucket: str, s3_server: s3.Server, tmp_path: pathlib.Path) -> None:
    model = samples.write_model(tmp_path / "model")
    texts = [f"{text} {number}" for number, text in enumerate(samples.TEXTS * 3)]
    client = s3_server.client()
    for part, half in enumerate((texts[:50], texts[50:])):
        body = "".join(json.dumps({"text": text}) + "\n" for text in half).encode()
        client.put_object(Bucket=bucket, Key=f"corpus/part-{part}.jsonl", Body=body)
    with _client(catalog) as user:
        user.models.create("small", str(model))
        user.models.create("other", str(shutil.copytree(model, tmp_path / "other")))
        user.datasets.create("docs", files=f"s3://{bucket}/corpus/*.jsonl")
        for name in ("small", "other"):
            user.models.wait(name, timeout=120)
        dataset = user.datasets.wait("docs", timeout=120)
        assert dataset.raw_path.startswith(f"s3://{bucket}/polytok/datasets/")
        made = user.tokenizations.create("docs", "small", max_length=32)
        made = user.tokenizations.wait(made, timeout=120)
        assert made.tokenized_path.startswith(f"s3://{bucket}/polytok/datasets/")
        reference = AutoTokenizer.from_pretrained(model)
        expected = [reference(text, truncation=True, max_length=32)["input_ids"] for text in texts]
        assert user.load("docs", "small")["input_ids"][:] == expected
        # Copied once: the copy is there when the store is not.
        copies = sorted((tmp_path / "home" / "tokenizations").iterdir())
        assert [copy.name for copy in copies] == [made.manifest_digest]
        shared = user.tokenizations.create("docs", "other", max_length=32)
        assert (shared.state, shared.tokenized_path) == (READY, made.tokenized_path)
        assert user.load("docs", "other")["input_ids"][:] == expected
        assert sorted((tmp_path / "home" / "tokenizations").iterdir()) == copies
        # What anybody else opens, with nothing of ours.
        assert datasets.load_from_disk(made.tokenized_path)["input_ids"][:] == expected
        _damage_and_repair(user, made, client, bucket)
        user.tokenizations.delete("docs", "small")
        user.tokenizations.delete("docs", "other")
        user.datasets.delete("docs")
    left = client.list_objects_v2(Bucket=bucket, Prefix="polytok/")
    assert left["KeyCount"] == 0, left


@pytest.mark.long
async def test_from_s3_to_s3_and_back(
    catalog: harness.CatalogHarness,
    workers: pathlib.Path,
    bucket: str,
    s3_server: s3.Server,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("POLYTOK_CACHE", str(tmp_path / "home"))
    await asyncio.to_thread(_use, catalog, bucket, s3_server, tmp_path)
    copies = await asyncio.to_thread(lambda: list(workers.glob("??/*")))
    assert copies, "the worker read the shard from its copy"
