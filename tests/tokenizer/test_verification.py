"""Verifying a tokenization's files."""

import hashlib
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import answers_pb2, tokenizer_pb2
from services.catalog.server.jobs import tokenization_stages
from services.runtime.storage import Storage
from services.tokenizer.checks import source_documents, verification
from tests.support.messages import words
from tests.tokenizer import oracle, samples, task_runner
from tests.tokenizer.pipeline import Pipeline, some

Finding = tokenizer_pb2.VerifyFinding
Parameters = tokenizations_pb2.TokenizationParameters
RAW = "datasets/d/raw"
TEXTS = [text[:2000] for text in samples.DOCUMENTS] + samples.ADVERSARIAL


class Made:
    """A published tokenization of two shards."""

    def __init__(self, storage: Storage, folder: object, parameters: Parameters) -> None:
        self.storage = storage
        self.runner = task_runner.TaskRunner(storage, folder)
        names = [f"part-0000{number}.arrow" for number in range(2)]
        halves: Sequence[Sequence[str]] = (TEXTS[:40], TEXTS[40:])
        shards = [
            task_runner.text_shard(storage, half[:25], half[25:], key=f"{RAW}/{name}")
            for name, half in zip(names, halves, strict=True)
        ]
        storage.write_bytes(f"{RAW}/state.json", json.dumps({"_data_files": [{"filename": n} for n in names]}).encode())
        pipeline = Pipeline(self.runner, parameters)
        if tokenization_stages.needs_multi_shard_plan(parameters, len(shards)):
            results = pipeline.assembled(shards)
        else:
            results = [
                self.runner.tokenize(shard, parameters, ordinal=number, count=2, first_row=40 * number)
                for number, shard in enumerate(shards)
            ]
        self.files = [file.key.rpartition("/")[2] for result in results for file in result.files]
        self.published = self.runner.publish(results, parameters, counted=pipeline.counted, raw=shards)
        task_runner.opened(storage, self.published)

    def path(self, name: str) -> pathlib.Path:
        path = self.storage.local_path(f"{task_runner.TOKENIZED}/{name}")
        assert path is not None
        return path

    def verify(self, sample: int = 0, *, every: bool = False) -> tokenizer_pb2.VerifyResult:
        task = answers_pb2.VerifyTask(
            tokenized_path=self.storage.uri(task_runner.TOKENIZED),
            manifest_digest=self.published.manifest_digest,
            raw_path=self.storage.uri(RAW),
            sample=sample,
            every_document=every,
        )
        return verification.verify(task, self.storage, self.runner.tokenizers, self.runner.context())

    def change(self, name: str, change: Callable[[bytes], bytes]) -> None:
        self.path(name).write_bytes(change(self.path(name).read_bytes()))

    def forge(self, name: str, change: Callable[[pa.Table], pa.Table]) -> None:
        """Change a file's rows and everything that would tell."""
        with pa.ipc.open_stream(self.path(name).read_bytes()) as stream:
            table = change(stream.read_all())
        with self.path(name).open("wb") as file, pa.ipc.new_stream(file, table.schema) as written:
            written.write_table(table)
        data = self.path(name).read_bytes()
        manifest = json.loads(self.path("polytok.json").read_bytes())
        for each in manifest["files"]:
            if each["name"] == name:
                each |= {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
        self.path("polytok.json").write_text(json.dumps(manifest))
        digest = self.published.manifest_digest = hashlib.sha256(self.path("polytok.json").read_bytes()).hexdigest()
        self.change("state.json", lambda data: json.dumps(json.loads(data) | {"_fingerprint": digest[:16]}).encode())


@pytest.fixture
def made(storage: Storage, folders: dict[str, pathlib.Path]) -> Made:
    return Made(storage, folders["byte_level"], Parameters(max_length=64))


def reported(result: tokenizer_pb2.VerifyResult) -> list[tuple[str, str]]:
    return [(Finding.Kind.Name(each.kind).removeprefix("KIND_"), each.file) for each in result.findings]


def test_nothing_is_wrong(made: Made) -> None:
    result = made.verify()
    assert reported(result) == []
    assert (result.num_files, result.sampled_documents) == (5, 0)
    assert result.size_bytes == sum(
        made.path(name).stat().st_size for name in (*made.files, "polytok.json", "state.json", "dataset_info.json")
    )
    assert made.runner.events[-1].progress.done == made.runner.events[-1].progress.total > 0


def test_unknown_files_are_not_damage(made: Made) -> None:
    assert (list(made.verify().unknown_files), made.verify().num_unknown_files) == ([], 0)
    folder = made.path("polytok.json").parent
    (folder / "below").mkdir()
    for name in ("below/polytok.json", "0-\udce9\n[é]", *(f"notes-{number:02}" for number in range(25))):
        (folder / name).touch()
    result = made.verify()
    assert reported(result) == []
    assert result.num_files == 5
    assert list(result.unknown_files[:3]) == ["0-\\udce9\\n[é]", "below/polytok.json", "notes-00"]
    assert (len(result.unknown_files), result.num_unknown_files) == (20, 27)


@pytest.mark.parametrize("change", [{"_split": "train"}, {"_format_kwargs": {"a": 1}}, {"extra": 1}])
def test_every_field_of_the_state_is_compared(made: Made, change: dict[str, Any]) -> None:
    made.change("state.json", lambda data: json.dumps(json.loads(data) | change).encode())
    assert reported(made.verify()) == [("INCONSISTENT", "state.json")]


@pytest.mark.parametrize("place", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("name", ["polytok.json", "state.json", "dataset_info.json", 0, 1])
def test_a_flipped_bit(made: Made, name: str | int, place: float) -> None:
    file = made.files[name] if isinstance(name, int) else name

    def flip(data: bytes) -> bytes:
        at = int(len(data) * place)
        return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]

    made.change(file, flip)
    assert [each for _, each in reported(made.verify())] == [file]


def test_files_of_another_length(made: Made) -> None:
    made.change(made.files[0], lambda data: data[:-100])
    made.change(made.files[1], lambda data: data + b"\0")
    result = made.verify()
    assert reported(result) == [("WRONG_SIZE", made.files[0]), ("WRONG_SIZE", made.files[1])]
    changes = zip(result.findings, made.files, (-100, 1), ("shorter", "longer"), strict=True)
    for finding, name, more, keyword in changes:
        found = made.path(name).stat().st_size
        assert {f"{found:,}", f"{found - more:,}", keyword} <= words(finding.message)


@pytest.mark.parametrize("name", ["polytok.json", "state.json", "dataset_info.json", 0])
def test_a_file_that_is_gone(made: Made, name: str | int) -> None:
    file = made.files[name] if isinstance(name, int) else name
    made.path(file).unlink()
    assert reported(made.verify()) == [("MISSING", file)]


@pytest.mark.parametrize("what", ["outside", "inside", "dangling", "folder", "pipe"])
@pytest.mark.parametrize("name", ["polytok.json", "state.json", "dataset_info.json", 0])
def test_not_a_file(made: Made, tmp_path: pathlib.Path, name: str | int, what: str) -> None:
    file = made.files[name] if isinstance(name, int) else name
    path = made.path(file)
    # The very bytes that were written, for what is behind a link may change at any time.
    path.rename(tmp_path / "outside")
    made.storage.write_bytes("inside", (tmp_path / "outside").read_bytes())
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to({"inside": made.path(file).parents[3] / "inside"}.get(what, tmp_path / what))
    result = made.verify(sample=3)
    assert reported(result) == [("NOT_A_FILE", file)]
    kind = {"folder": "a folder", "pipe": "a device, pipe or socket"}.get(what, "a symbolic link")
    assert result.findings[0].message.startswith(f"{file} is {kind} ")
    assert result.num_files == (0 if file == "polytok.json" else 4)


@pytest.mark.parametrize("place", ["outside", "storage/elsewhere", "dangling"])
def test_a_link_in_place_of_the_folder(made: Made, tmp_path: pathlib.Path, place: str) -> None:
    folder = made.path("x").parent
    folder.rename(tmp_path / place)
    folder.symlink_to(tmp_path / place.replace("dangling", "none"))
    result = made.verify()
    assert reported(result) == [("NOT_A_FILE", "")]
    assert "a symbolic link" in result.findings[0].message
    assert result.num_files == 0


def test_a_link_above_the_folder_that_leaves_the_storage(made: Made, tmp_path: pathlib.Path) -> None:
    above = made.path("x").parents[1]
    above.rename(tmp_path / "outside")
    above.symlink_to(tmp_path / "outside")
    result = made.verify()
    assert reported(result) == [("NOT_A_FILE", "")]
    assert f"'{task_runner.TOKENIZED.rpartition('/')[0]}' is a symbolic link" in result.findings[0].message


def test_ids_are_not_compared_with_a_raw_file_behind_a_link(made: Made, tmp_path: pathlib.Path) -> None:
    raw = made.storage.local_path(f"{RAW}/part-00000.arrow")
    assert raw is not None
    raw.rename(tmp_path / "outside")
    raw.symlink_to(tmp_path / "outside")
    with pytest.raises(errors.DataLoss, match=r"part-00000\.arrow' leaves the storage root") as caught:
        made.verify(every=True)
    assert caught.value.reason == "PATH_OUTSIDE_ROOT"


def test_inconsistent_files(made: Made) -> None:
    made.change("state.json", lambda data: json.dumps(json.loads(data) | {"_data_files": []}).encode())
    made.change("dataset_info.json", lambda data: json.dumps(json.loads(data) | {"features": {}}).encode())
    assert reported(made.verify()) == [("INCONSISTENT", "state.json"), ("INCONSISTENT", "dataset_info.json")]


FORMS = {
    "plain": {"max_length": 64},
    "whole": {"truncation": Parameters.TRUNCATION_NONE},
    "left": {"max_length": 20, "truncation": Parameters.TRUNCATION_LEFT},
    "packed": {"max_length": 32, "packing": {}},
    "packed long": {"max_length": 3000, "packing": {"separator": tokenizations_pb2.Packing.BOUNDARY_EOS}},
    "overflowing": {"max_length": 32, "overflow": True, "stride": 5},
    "padded": {"max_length": 40, "padding": {"token": tokenizations_pb2.Padding.TOKEN_EOS}},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_sample_is_what_the_reference_makes(
    storage: Storage, folders: dict[str, pathlib.Path], kind: str, form: str
) -> None:
    how: Any = FORMS[form]
    made = Made(storage, folders[kind], Parameters(**how))
    result = made.verify(sample=30)
    assert reported(result) == []
    assert 30 <= result.sampled_documents <= len(TEXTS)
    result = made.verify(every=True)
    assert (reported(result), result.sampled_documents) == ([], len(TEXTS))


CHOSEN: dict[str, dict[str, Any]] = {
    "filtered": {"filters": {"min_characters": 300, "max_junk": 0.2}, "normalization": Parameters.NORMALIZATION_NFKC},
    "first": {"max_documents": 50, "filters": {"drop_pattern": "class"}},
    "first shard": {"max_documents": 30},
    "shuffled": {"shuffle_seed": 5},
    "sample": {"shuffle_seed": 5, "max_documents": 47, "filters": {"max_characters": 1999}},
    "duplicates": {"filters": {"drop_duplicates": True}},
    "all": {"shuffle_seed": 8, "max_documents": 70, "filters": {"drop_duplicates": True, "min_characters": 9}},
}


@pytest.mark.parametrize("form", some(["plain", "packed", "packed long", "overflowing"], "plain", "packed"))
@pytest.mark.parametrize("chosen", CHOSEN)
def test_documents_are_found_again(
    storage: Storage, folders: dict[str, pathlib.Path], chosen: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_documents, "_ROWS", 11)
    monkeypatch.setattr(source_documents, "_HASHES", 30)
    monkeypatch.setattr(sys.modules[__name__], "TEXTS", [*TEXTS[:50], *TEXTS[3:20], *TEXTS[50:]])
    parameters = Parameters(**FORMS[form], **CHOSEN[chosen])
    made = Made(storage, folders["byte_level"], parameters)
    result = made.verify(sample=1000)
    assert reported(result) == []
    # Of packed ones the sample ends with each file, or goes on into the next.
    expected = len(oracle.left(TEXTS, parameters)[0])
    every = made.verify(every=True)
    assert reported(every) == []
    # Of a file in which no sequence begins there is nothing to compare.
    assert every.sampled_documents == expected or len(made.files) < 2
    assert result.sampled_documents == expected if form == "plain" else result.sampled_documents >= expected / 2


@pytest.mark.parametrize("change", [{"shuffle_seed": 6}, {"max_documents": 46}, {"filters": {"max_characters": 1800}}])
def test_other_documents(storage: Storage, folders: dict[str, pathlib.Path], change: dict[str, Any]) -> None:
    made = Made(storage, folders["byte_level"], Parameters(max_length=32, **CHOSEN["sample"]))
    manifest = json.loads(made.path("polytok.json").read_bytes())
    manifest["parameters"] |= change
    made.path("polytok.json").write_text(json.dumps(manifest))
    made.forge(made.files[0], lambda table: table)
    for result in (made.verify(sample=1000), made.verify(every=True)):
        assert {kind for kind, _ in reported(result)} == {"WRONG_IDS"}


def test_a_wrong_phase(storage: Storage, folders: dict[str, pathlib.Path]) -> None:
    made = Made(storage, folders["byte_level"], Parameters(max_length=32, packing={}))
    manifest = json.loads(made.path("polytok.json").read_bytes())
    assert [file["phase"] > 0 for file in manifest["files"]] == [False, True]
    manifest["files"][1]["phase"] -= 1
    made.path("polytok.json").write_text(json.dumps(manifest))
    made.forge(made.files[0], lambda table: table)
    assert ("WRONG_IDS", made.files[1]) in reported(made.verify(every=True))


@pytest.mark.parametrize("form", ["plain", "packed", "overflowing", "padded"])
def test_a_wrong_id(storage: Storage, folders: dict[str, pathlib.Path], form: str) -> None:
    how: Any = FORMS[form]
    made = Made(storage, folders["byte_level"], Parameters(**how))
    changed: list[int] = []

    def forged(table: pa.Table) -> pa.Table:
        rows = table["input_ids"].to_pylist()
        right, rows[3][1] = rows[3][1], rows[3][1] ^ 1
        changed[:] = right, rows[3][1]
        ids = pa.array(rows, table.schema.field("input_ids").type)
        return table.set_column(0, table.schema.field("input_ids"), ids)

    made.forge(made.files[0], forged)
    assert reported(made.verify()) == []
    for result in (made.verify(sample=len(TEXTS)), made.verify(every=True)):
        assert reported(result) == [("WRONG_IDS", made.files[0])]
        assert result.findings[0].row == 3
        assert {"token", "1", *map(str, changed)} <= words(result.findings[0].message)


def replaced(column: str, change: Callable[[list[list[int]]], object]) -> Callable[[pa.Table], pa.Table]:
    def forged(table: pa.Table) -> pa.Table:
        rows = table[column].to_pylist()
        change(rows)
        field = table.schema.field(column)
        return table.set_column(table.schema.get_field_index(column), field, pa.array(rows, field.type))

    return forged


@pytest.mark.parametrize(
    ("form", "column"),
    [
        ("padded", "input_ids"),
        ("padded", "attention_mask"),
        ("starts", "document_starts"),
        ("starts", "attention_mask"),
    ],
)
def test_a_wrong_value_in_any_column(
    storage: Storage, folders: dict[str, pathlib.Path], form: str, column: str
) -> None:
    forms: dict[str, Any] = FORMS | {"starts": {"max_length": 32, "packing": {"document_starts": True}}}
    made = Made(storage, folders["byte_level"], Parameters(**forms[form]))
    assert reported(made.verify(every=True)) == []

    def change(rows: list[list[int]]) -> None:
        (row,) = [row for row in rows if len(row) > 1][-1:]
        row[-1] ^= 1

    made.forge(made.files[1], replaced(column, change))
    (finding,) = made.verify(every=True).findings
    assert (finding.kind, finding.file) == (Finding.KIND_WRONG_IDS, made.files[1])
    if column != "input_ids":
        assert column in words(finding.message)


@pytest.mark.parametrize("form", ["plain", "packed"])
@pytest.mark.parametrize("change", ["fewer", "more"])
def test_missing_and_surplus_rows(storage: Storage, folders: dict[str, pathlib.Path], form: str, change: str) -> None:
    how: Any = FORMS[form]
    made = Made(storage, folders["byte_level"], Parameters(**how))
    for name in made.files:
        made.forge(
            name, lambda table: table.slice(0, len(table) - 1) if change == "fewer" else pa.concat_tables([table] * 2)
        )
    result = made.verify(every=True)
    assert {each.file for each in result.findings} == set(made.files)
    wanted = "missing" if change == "fewer" else "no document"
    assert all(wanted in each.message for each in result.findings)


@pytest.mark.parametrize("what", ["text", "schema", "gone"])
@pytest.mark.parametrize("every", [True, False])
def test_a_damaged_dataset(made: Made, what: str, every: bool) -> None:
    path = made.storage.local_path(f"{RAW}/part-00001.arrow")
    assert path is not None
    data = path.read_bytes()
    if what == "gone":
        path.unlink()
    else:
        at = data.index(TEXTS[50][:40].encode()) if what == "text" else 20
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    assert reported(made.verify()) == []
    with pytest.raises(errors.DataLoss) as caught:
        made.verify(0 if every else 1000, every=every)
    assert (caught.value.reason, caught.value.retryable) == ("CHECKSUM_MISMATCH", False)
    assert {"raw", "dataset"} <= words(caught.value.message)


def test_progress_counts_documents(made: Made) -> None:
    made.runner.events.clear()
    made.verify(every=True)
    seen = []
    for event in made.runner.events:
        progress = tokenizer_pb2.VerifyProgress()
        if event.HasField("report") and event.report.Unpack(progress):
            seen.append(progress)
    assert seen
    assert {each.total_documents for each in seen} == {len(TEXTS)}
    assert 0 < seen[-1].done_documents <= len(TEXTS)


def test_a_folder_elsewhere(made: Made, tmp_path: pathlib.Path) -> None:
    task = answers_pb2.VerifyTask(tokenized_path=str(tmp_path / "elsewhere"))
    with pytest.raises(errors.FailedPrecondition) as caught:
        verification.verify(task, made.storage, made.runner.tokenizers, made.runner.context())
    assert caught.value.reason == "PATH_OUTSIDE_ROOT"
    assert {str(tmp_path / "elsewhere"), "POLYTOK_STORAGE_ROOT"} <= words(caught.value.message)


def test_parameters_of_a_newer_version(made: Made) -> None:
    manifest = json.loads(made.path("polytok.json").read_bytes())
    manifest["parameters"]["reordering"] = {"seed": 7}
    data = json.dumps(manifest).encode()
    made.path("polytok.json").write_bytes(data)
    made.published.manifest_digest = hashlib.sha256(data).hexdigest()
    with pytest.raises(errors.FailedPrecondition) as caught:
        made.verify(sample=1)
    assert caught.value.reason == "WRONG_STATE"
    assert {"reordering", "sample"} <= words(caught.value.message)
