"""How often each token occurs, against Python's Counter over what the published files hold."""

import collections
import hashlib
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import transformers

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from services.runtime.storage import Storage, verification
from services.tokenizer.files import token_counts
from services.tokenizer.models import loader
from tests.support.messages import words
from tests.tokenizer import samples, task_runner
from tests.tokenizer.task_runner import Parameters

PARTS = [samples.DOCUMENTS[:9], [""], samples.ADVERSARIAL, ["unseen \U0001fae8 ☃ 漢字 漢字"]]
_P = Parameters


def packed(**fields: object) -> Parameters:
    parameters = Parameters(text_column="text", max_length=16, truncation=_P.TRUNCATION_NONE, **fields)
    parameters.packing.SetInParent()
    return parameters


def padded(role: str) -> Parameters:
    parameters = Parameters(text_column="text", max_length=24, add_special_tokens=True)
    parameters.padding.token = getattr(parameters.padding, f"TOKEN_{role}")
    return parameters


FORMS = {
    "sentencepiece": [
        Parameters(text_column="text", max_length=20, add_special_tokens=True),
        Parameters(text_column="text", max_length=20, overflow=True, stride=5, add_special_tokens=True),
        packed(),
        padded("EOS"),
    ],
    "wordpiece": [Parameters(text_column="text", max_length=16, add_special_tokens=True), padded("PAD")],
}


@pytest.mark.parametrize(
    ("kind", "place"), [(kind, place) for kind, many in FORMS.items() for place in range(len(many))]
)
def test_what_is_published_is_what_the_files_hold(
    storage: Storage, folders: dict[str, pathlib.Path], kind: str, place: int
) -> None:
    parameters = FORMS[kind][place]
    runner = task_runner.TaskRunner(storage, folders[kind])
    results = [
        runner.tokenize(
            task_runner.text_shard(storage, part, key=f"datasets/d/raw/part-{ordinal:05d}.arrow"),
            parameters,
            ordinal=ordinal,
            count=len(PARTS),
        )
        for ordinal, part in enumerate(PARTS)
    ]
    published = runner.publish(results, parameters)
    found = published.statistics
    rows = task_runner.opened(storage, published)
    tokens: collections.Counter[int] = collections.Counter()
    stored = 0
    for row in rows:
        stored += len(row["input_ids"])
        tokens.update(token for token, real in zip(row["input_ids"], row["attention_mask"], strict=True) if real)
    oracle = transformers.AutoTokenizer.from_pretrained(folders[kind])
    expected = sorted(tokens.items(), key=lambda item: (-item[1], item[0]))[:20]
    assert [(each.id, each.count) for each in found.most_frequent_tokens] == expected
    assert [each.piece for each in found.most_frequent_tokens] == oracle.convert_ids_to_tokens(
        [token for token, _ in expected]
    )
    assert [each.share for each in found.most_frequent_tokens] == [count / tokens.total() for _, count in expected]
    assert (found.num_tokens, found.num_unique_tokens) == (tokens.total(), len(tokens))
    unknown = oracle.convert_tokens_to_ids("[UNK]" if kind == "wordpiece" else "<unk>")
    assert found.unknown_share == tokens[unknown] / tokens.total()
    assert found.unknown_share > 0
    assert found.padded_share == (stored - tokens.total()) / stored
    assert (found.padded_share > 0) == parameters.HasField("padding")
    assert found.truncated_share == found.num_truncated / sum(map(len, PARTS))
    assert (found.truncated_share > 0) == (not parameters.HasField("packing"))
    manifest = json.loads(storage.read_bytes(f"{task_runner.TOKENIZED}/polytok.json"))["statistics"]
    assert manifest["num_unique_tokens"] == len(tokens)
    assert [(each["id"], each["count"]) for each in manifest["most_frequent_tokens"]] == expected


def test_gaps_in_the_vocabulary_are_counted() -> None:
    for ids in ([0, 2, 9, 9], [7], []):
        found = token_counts.add_counts(np.array(ids, np.int32), np.zeros(3, np.int64))
        expected = collections.Counter(ids)
        assert {token: int(count) for token, count in enumerate(found) if count} == expected


@pytest.mark.parametrize("ids", [[-1, 2], [1 << 25]])
def test_impossible_ids(ids: list[int]) -> None:
    with pytest.raises(errors.DataLoss) as caught:
        token_counts.add_counts(np.array(ids, np.int32), np.zeros(3, np.int64))
    assert str(ids[0]) in words(caught.value.message)


class Remote(Storage):
    """A storage whose files are not this machine's."""

    def local_path(self, key: str) -> None:
        return None


def test_remote_files_are_counted_alike(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    runner = task_runner.TaskRunner(storage, folders["sentencepiece"])
    result = runner.tokenize(task_runner.text_shard(storage, *PARTS), FORMS["sentencepiece"][3])
    (file,) = result.files
    found = []
    for each in (storage, Remote(storage.uri("x").removesuffix("x"))):
        counts = token_counts.TokenCounts(0)
        assert counts.measure(each, file) == (file.size_bytes, file.sha256)
        counts.fill_in(statistics := tokenizations_pb2.TokenizationStatistics())
        found.append(statistics)
    assert found[0] == found[1]
    assert found[0].num_unique_tokens > 100
    # Bytes that are not what was written are noticed by their checksum alone, whatever they decode to.
    data = storage.read_bytes(file.key)
    for damaged in (
        b"",
        data[:-1],
        b"\xff" * 100,
        data[:200] + b"\xff" * 8 + data[208:],
        data.replace(b"input_ids", b"inpud_ids"),
    ):
        digest = storage.write_bytes(file.key, damaged)
        for each in (storage, Remote(storage.uri("x").removesuffix("x"))):
            assert token_counts.TokenCounts(9).measure(each, file) == (len(damaged), digest)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_file_is_not_resident_while_it_is_read(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    data = np.arange(8 << 20, dtype=np.int32).tobytes()
    path.write_bytes(data)
    resident = []

    class Digest:
        def __init__(self) -> None:
            self._digest = hashlib.new("sha256")

        def update(self, data: memoryview) -> None:
            self._digest.update(data)
            resident.append(resident_kib(path))

        def hexdigest(self) -> str:
            return self._digest.hexdigest()

    expected = (len(data), hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(hashlib, "sha256", Digest)
    assert verification.measured(Storage(str(tmp_path)), "large") == expected
    # The kernel maps pages around those that are asked for.
    assert 0 < max(resident) < 10 << 10


def resident_kib(path: pathlib.Path) -> int:
    _, _, about = pathlib.Path("/proc/self/smaps").read_text().partition(f"{path}\n")
    return int(about.partition("Rss:")[2].split()[0])


def test_counts_without_a_tokenizer(storage: Storage, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    folder = shutil.copytree(folders["sentencepiece"], tmp_path / "tokenizer")
    runner = task_runner.TaskRunner(storage, folder)
    parameters = Parameters(text_column="text", max_length=20)
    result = runner.tokenize(task_runner.text_shard(storage, ["one one two"]), parameters)
    shutil.rmtree(folder)
    runner.tokenizers = loader.TokenizerCache(1)
    found = runner.publish([result], parameters, vocab_size=1500).statistics
    assert found.num_unique_tokens == len(set(task_runner.rows(storage, result)[0]))
    assert {each.piece for each in found.most_frequent_tokens} == {""}
