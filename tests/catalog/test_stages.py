"""The stages of a tokenization whose files depend on several raw shards: each gets the results of the ones before."""

import pytest

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from tests.catalog import harness
from tests.support.messages import check_names

State = tokenizations_pb2.Tokenization.State
ALL = {"packing": {}, "shuffle_seed": 3, "filters": {"drop_duplicates": True}}


@pytest.fixture
async def ready(catalog, worker):
    """Return a catalog with a dataset of one raw shard and a model."""
    await catalog.create_dataset("docs")
    await worker.ingest("docs", rows=5)
    await catalog.create_model("gpt2")
    await worker.inspect("gpt2")
    return catalog


class Staged:
    """A tokenization in stages, taken one task at a time."""

    def __init__(self, worker, created):
        self.worker = worker
        self.job = created.job

    async def encode(self):
        leased = await self.worker.take(self.job)
        assert leased.lease.kind == "tokenize.encode"
        task = leased.payload(tasks_pb2.TokenizeShardTask)
        documents = stages_pb2.StagedDocuments(key=f"{task.tokenized_key}/staged-ids", num_rows=5, num_ids=50)
        statistics = tokenizations_pb2.TokenizationStatistics(num_documents=5, text_bytes=9)
        await leased.complete(stages_pb2.EncodeShardResult(documents=documents, statistics=statistics))
        return documents

    async def arrange(self, **found):
        """Take `tokenize.arrange`, and return with this."""
        leased = await self.worker.take(self.job)
        assert leased.lease.kind == "tokenize.arrange"
        task = leased.payload(stages_pb2.ArrangeTask)
        key = f"{task.tokenized_key}/staged-arrangement-{leased.tag}"
        await leased.complete(stages_pb2.ArrangeResult(**{"arrangement_key": key, "num_files": 2} | found))
        return task, key

    async def each(self, kind, count, answer):
        """Take all tasks of a stage; the answer is made of the task's place."""
        leased = [await self.worker.take(self.job) for _ in range(count)]
        tasks = [each.payload(stages_pb2.ArrangedTask) for each in leased]
        assert {each.lease.kind for each in leased} == {f"tokenize.{kind}"}
        assert [(task.ordinal, task.count) for task in tasks] == [(place, count) for place in range(count)]
        # The last one first: results keep the order of the tasks.
        for place in reversed(range(count)):
            await leased[place].complete(answer(place))
        return tasks

    async def publish(self):
        leased = await self.worker.take(self.job)
        assert leased.lease.kind == "tokenize.publish"
        await leased.complete(leased.publication())
        return leased.payload(tasks_pb2.PublishTokenizationTask)


def assembled(place):
    return tasks_pb2.TokenizeShardResult(
        statistics=tokenizations_pb2.TokenizationStatistics(num_tokens=place, num_sequences=1)
    )


async def test_every_stage(ready, worker):
    created = await ready.tokenize("docs", "gpt2", max_length=8, **ALL)
    staged = Staged(worker, created)
    documents = await staged.encode()
    task, key = await staged.arrange()
    assert (list(task.documents), task.dataset_rows, task.parameters) == ([documents], 5, created.parameters)
    (task,) = await staged.each("duplicates", 1, lambda _: stages_pb2.FindDuplicatesResult(rows_key="rows"))
    assert (task.arrangement_key, task.parameters) == (key, created.parameters)
    task, second = await staged.arrange(num_duplicates=2)
    assert (task.arrangement_key, [each.rows_key for each in task.duplicates]) == (key, ["rows"])
    tasks = await staged.each("measure", 2, lambda place: stages_pb2.MeasureResult(phases_key=f"phases-{place}"))
    assert {task.arrangement_key for task in tasks} == {second}
    task, third = await staged.arrange(is_aligned=True)
    assert (task.arrangement_key, [each.phases_key for each in task.measured]) == (second, ["phases-0", "phases-1"])
    tasks = await staged.each("assemble", 2, assembled)
    assert {task.arrangement_key for task in tasks} == {third}
    assert tasks[0].tokenizer.repo_id == "/models/gpt2"
    task = await staged.publish()
    assert [shard.statistics.num_tokens for shard in task.shards] == [0, 1]
    assert sum(each.num_documents for each in task.counted) == 5
    assert sum(each.num_duplicates for each in task.counted) == 2
    done = await ready.tokenization(created.name)
    assert (done.state, done.parameters.shuffle_seed) == (State.STATE_READY, 3)


@pytest.mark.parametrize(
    ("parameters", "found"),
    [({"shuffle_seed": 3}, {}), ({"shuffle_seed": 3, "packing": {}}, {"is_aligned": True})],
)
async def test_unneeded_stages_are_skipped(ready, worker, parameters, found):
    staged = Staged(worker, await ready.tokenize("docs", "gpt2", **parameters))
    await staged.encode()
    await staged.arrange(**found)
    await staged.each("assemble", 2, assembled)
    assert [each.num_duplicates for each in (await staged.publish()).counted] == [0, 0]


@pytest.mark.parametrize(
    ("parameters", "stages"),
    [
        (ALL, ["duplicates", "measure", "assemble"]),
        # The places of packed sequences may come out without being measured: that stage is skipped.
        (ALL, ["duplicates", "assemble"]),
        ({"shuffle_seed": 3}, ["assemble"]),
    ],
)
async def test_progress_over_all_stages(ready, worker, parameters, stages):
    created = await ready.tokenize("docs", "gpt2", **parameters)
    staged = Staged(worker, created)
    seen = [0.0]

    async def note():
        seen.append((await ready.tokenization(created.name)).progress)

    await staged.encode()
    await note()
    assert 60 < seen[-1] < 80
    answers = {
        "duplicates": lambda _: stages_pb2.FindDuplicatesResult(),
        "measure": lambda place: stages_pb2.MeasureResult(phases_key=f"phases-{place}"),
        "assemble": assembled,
    }
    for kind in stages:
        await staged.arrange(is_aligned=kind == "assemble")
        await note()
        await staged.each(kind, 1 if kind == "duplicates" else 2, answers[kind])
        await note()
    assert 90 < seen[-1] < 98
    await staged.publish()
    await note()
    assert seen[-1] == 100
    assert seen == sorted(set(seen)), "every stage moves the bar, and forward"


async def test_arrangement_outside_the_folder_is_refused(ready, worker):
    created = await ready.tokenize("docs", "gpt2", shuffle_seed=3)
    staged = Staged(worker, created)
    await staged.encode()
    await staged.arrange(arrangement_key="datasets/another/arrangement")
    done = await ready.tokenization(created.name)
    assert (done.state, done.error_reason) == (State.STATE_ERROR, "INTERNAL")
    check_names(done.error_message, "datasets/another/arrangement")


async def test_other_parameters_are_refused(ready, worker):
    created = await ready.tokenize("docs", "gpt2", **ALL)
    same = await ready.tokenize("docs", "gpt2", **ALL)
    assert same.parameters.shuffle_seed == 3
    async with harness.expect_error(errors.AlreadyExists, "RESOURCE_EXISTS") as caught:
        await ready.tokenize("docs", "gpt2", packing={}, filters={})
    assert caught[0].metadata["resource"] == created.name
    for text in (caught[0].message, caught[0].metadata["differs"]):
        check_names(text, "filters.drop_duplicates", True, "shuffle_seed", 3, "unset")
    async with harness.expect_error(errors.InvalidArgument, "INVALID_FIELD"):
        await ready.tokenize("docs", "gpt2", variant="v", shuffle_seed=-1)
