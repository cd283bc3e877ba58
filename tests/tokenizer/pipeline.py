"""A tokenization from raw shards to an opened folder, its tasks in the order in which the catalog has them done."""

import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import datasets
import pytest

from polytok.catalog.v1 import tasks_pb2 as catalog_tasks_pb2
from polytok.catalog.v1 import tokenizations_pb2
from polytok.tokenizer.v1 import stages_pb2, tasks_pb2
from services.tokenizer.worker.tasks import arrange_task, assemble_task, duplicates_task, encode_task
from tests.tokenizer import task_runner
from tests.tokenizer.task_runner import Parameters, TaskRunner

Made = TypeVar("Made")


class Pipeline:
    """Runs all stages; the tasks of each are done in some order or other."""

    def __init__(self, runner: TaskRunner, parameters: Parameters, *, shares: int = 3) -> None:
        self.runner = runner
        self.parameters = parameters
        self.shares = shares
        self.counted: list[tokenizations_pb2.TokenizationStatistics] = []
        self.published = tasks_pb2.PublishTokenizationResult()
        self._number = 0

    def run(self, parts: Sequence[Sequence[str]]) -> datasets.Dataset:
        """Tokenize the texts of some raw shards, and open what comes out."""
        raw = [
            task_runner.text_shard(self.runner.storage, part[: len(part) // 2], part[len(part) // 2 :], key=key(number))
            for number, part in enumerate(parts)
        ]
        made = self.assembled(raw)
        self.published = self.runner.publish(made, self.parameters, counted=self.counted)
        return task_runner.opened(self.runner.storage, self.published)

    def assembled(self, raw: Sequence[catalog_tasks_pb2.RawShard]) -> list[tasks_pb2.TokenizeShardResult]:
        """Return all stages but the last."""
        encoded = self.encoded(raw)
        self.counted += [each.statistics for each in encoded]
        found = self.arranged(
            documents=[each.documents for each in encoded], dataset_rows=sum(shard.num_rows for shard in raw)
        )
        if self.parameters.filters.drop_duplicates:
            shared = self._each(self.shares, lambda place: self._do(duplicates_task.find, found, place, self.shares))
            found = self.arranged(found, duplicates=shared)
        if self._concatenates and not found.is_aligned:
            found = self.arranged(found, measured=self.measured(found))
            assert found.is_aligned
        return self.files(found)

    def measured(self, found: stages_pb2.ArrangeResult) -> list[stages_pb2.MeasureResult]:
        """`tokenize.measure` of each file."""
        count = found.num_files
        return self._each(count, lambda place: self._do_with(assemble_task.measure, found, place, count))

    def files(self, found: stages_pb2.ArrangeResult) -> list[tasks_pb2.TokenizeShardResult]:
        """`tokenize.assemble` of each file."""
        count = found.num_files
        return self._each(count, lambda place: self._do_with(assemble_task.assemble, found, place, count))

    def encoded(self, raw: Sequence[catalog_tasks_pb2.RawShard]) -> list[stages_pb2.EncodeShardResult]:
        """`tokenize.encode` of each raw shard that is needed."""
        first_rows = [sum(shard.num_rows for shard in raw[:place]) for place in range(len(raw))]
        taken = len(raw)
        if self.parameters.HasField("max_documents") and not self.parameters.HasField("shuffle_seed"):
            taken = sum(first_row < self.parameters.max_documents for first_row in first_rows)
        tasks = [
            tasks_pb2.TokenizeShardTask(
                shard=raw[place],
                tokenizer=self.runner.reference,
                parameters=self.parameters,
                tokenized_key=task_runner.TOKENIZED,
                ordinal=place,
                count=taken,
                first_row=first_rows[place],
                dataset_rows=sum(shard.num_rows for shard in raw),
            )
            for place in range(taken)
        ]
        return self._each(
            taken,
            lambda place: encode_task.encode(
                tasks[place], self.runner.storage, self.runner.tokenizers, self.runner.selector, self._context()
            ),
        )

    def arranged(self, before: stages_pb2.ArrangeResult | None = None, **given: object) -> stages_pb2.ArrangeResult:
        """`tokenize.arrange`, on what it gave before if there is that."""
        if before is not None:
            given |= {
                "arrangement_key": before.arrangement_key,
                "arrangement_sha256": before.arrangement_sha256,
            }
        task = stages_pb2.ArrangeTask(tokenized_key=task_runner.TOKENIZED, parameters=self.parameters, **given)
        found = arrange_task.arrange(task, self.runner.storage, self._context())
        self.counted.append(tokenizations_pb2.TokenizationStatistics(num_duplicates=found.num_duplicates))
        return found

    @property
    def _concatenates(self) -> bool:
        return self.parameters.HasField("packing") and not self.parameters.packing.disable_concatenation

    def _each(self, count: int, do: Callable[[int], Made]) -> list[Made]:
        places = list(range(count))
        random.shuffle(places)
        made = {place: do(place) for place in places}
        return [made[place] for place in range(count)]

    def _task(self, found: stages_pb2.ArrangeResult, place: int, count: int) -> stages_pb2.ArrangedTask:
        return stages_pb2.ArrangedTask(
            arrangement_key=found.arrangement_key,
            arrangement_sha256=found.arrangement_sha256,
            tokenized_key=task_runner.TOKENIZED,
            tokenizer=self.runner.reference,
            parameters=self.parameters,
            ordinal=place,
            count=count,
        )

    def _do(self, do: Callable[..., Made], found: stages_pb2.ArrangeResult, place: int, count: int) -> Made:
        return do(self._task(found, place, count), self.runner.storage, self._context())

    def _do_with(self, do: Callable[..., Made], found: stages_pb2.ArrangeResult, place: int, count: int) -> Made:
        return do(self._task(found, place, count), self.runner.storage, self.runner.tokenizers, self._context())

    def _context(self) -> object:
        # Every task has an id of its own.
        self._number += 1
        return self.runner.context(epoch=self._number)


def some(values: Iterable[Any], *often: Any) -> list[Any]:
    """Parameters of a test of which only these are tried every time, the others with the long tests."""
    return [value if value in often else pytest.param(value, marks=pytest.mark.long) for value in values]


def key(number: int) -> str:
    """Return the name of a raw shard."""
    return f"datasets/d/raw/part-{number:05d}.arrow"
