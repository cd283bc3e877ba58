"""The platform: start-up, idling, creating, a tiny dataset end to end, resolving, memory of the workers.

`make bench` runs it and writes `benchmarks/results/bench.json`.
"""

import itertools
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from rich.console import Console

from benchmarks import corpus, report, resolve, stack
from polytok.catalog.v1 import (
    datasets_pb2,
    datasets_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    tokenizations_pb2,
    tokenizations_pb2_grpc,
)

console = Console()
RESOLVE = "/polytok.catalog.v1.TokenizationService/ResolveTokenization"


class Catalog:
    """The catalog's stubs on one channel."""

    def __init__(self, address: str) -> None:
        self._bounds = itertools.count(1_000_000)
        self.channel = grpc.insecure_channel(address)
        self.datasets = datasets_pb2_grpc.DatasetServiceStub(self.channel)
        self.models = models_pb2_grpc.ModelServiceStub(self.channel)
        self.tokenizations = tokenizations_pb2_grpc.TokenizationServiceStub(self.channel)

    def add_dataset(self, name: str, path: pathlib.Path) -> None:
        """Register a file and wait until it is read."""
        source = datasets_pb2.DatasetSource(files=datasets_pb2.FileSource(uris=[str(path)]))
        dataset = datasets_pb2.Dataset(source=source)
        self.datasets.CreateDataset(datasets_pb2.CreateDatasetRequest(dataset_id=name, dataset=dataset))
        for answer in self.datasets.WatchDataset(datasets_pb2.WatchDatasetRequest(name=f"datasets/{name}")):
            dataset = answer.dataset
        _require(dataset.state == datasets_pb2.Dataset.STATE_READY, dataset.error_message)

    def add_model(self, name: str, folder: pathlib.Path) -> None:
        """Register a model and wait until its tokenizer is read."""
        model = models_pb2.Model(repo_id=str(folder))
        self.models.CreateModel(models_pb2.CreateModelRequest(model_id=name, model=model))
        for answer in self.models.WatchModel(models_pb2.WatchModelRequest(name=f"models/{name}")):
            model = answer.model
        _require(model.state == models_pb2.Model.STATE_READY, model.error_message)

    def create(self, dataset: str, model: str, variant: str = "", bound: int = 0) -> tokenizations_pb2.Tokenization:
        """Create a tokenization; does not wait.

        Each has its own limit, far above the number of documents: with equal parameters it would share the files of
        the previous one, and there would be no work to measure.
        """
        request = tokenizations_pb2.CreateTokenizationRequest(
            parent=f"datasets/{dataset}",
            model=f"models/{model}",
            variant=variant,
            parameters=tokenizations_pb2.TokenizationParameters(max_documents=bound or next(self._bounds)),
        )
        return self.tokenizations.CreateTokenization(request)

    def wait(self, tokenization: tokenizations_pb2.Tokenization) -> tokenizations_pb2.Tokenization:
        """Wait until a tokenization is READY."""
        request = tokenizations_pb2.WatchTokenizationRequest(name=tokenization.name)
        for answer in self.tokenizations.WatchTokenization(request):
            tokenization = answer.tokenization
        _require(tokenization.state == tokenizations_pb2.Tokenization.STATE_READY, tokenization.error_message)
        return tokenization


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise RuntimeError(message)


def main() -> None:
    """Run every part and write the report."""
    found = report.Report("bench")
    found.baseline("grpcio", "datasets", "transformers", "tokenizers")
    with tempfile.TemporaryDirectory(prefix="polytok-bench-") as folder:
        work = pathlib.Path(folder)
        corpus.write_tokenizer(work / "model")
        corpus.write_jsonl(work / "tiny.jsonl", 20)
        with stack.running(work / "home") as running:
            found.add("stack up, first start", running.seconds_to_ready, "s", below=10)
        with stack.running(work / "home") as running:
            found.add("stack up, second start", running.seconds_to_ready, "s", below=10)
            catalog = Catalog(running.catalog)
            catalog.add_model("tiny", work / "model")
            _tiny(catalog, work, found)
            _create(catalog, found)
            _resolve(catalog, running.catalog, found)
            _large(catalog, running, work, found)
            time.sleep(10)
            found.add("stack idle", 100 * running.idle_share(30), "% of a core", below=5)
    found.show(console)
    console.print(f"Written to {found.write().relative_to(pathlib.Path.cwd())}")


def _tiny(catalog: Catalog, work: pathlib.Path, found: report.Report) -> None:
    """Measure a tiny dataset from create to READY with a warm worker, and the same work by hand in a new process."""
    catalog.add_dataset("tiny", work / "tiny.jsonl")
    catalog.wait(catalog.create("tiny", "tiny", "warm"))
    seconds = []
    for index in range(10):
        began = time.perf_counter()
        catalog.wait(catalog.create("tiny", "tiny", f"run-{index}"))
        seconds.append(time.perf_counter() - began)
    found.add("tiny tokenization, create to READY (median of 10)", statistics.median(seconds), "s", below=1.5)
    found.add("tiny tokenization, create to READY (slowest of 10)", max(seconds), "s")
    catalog.wait(catalog.create("tiny", "tiny", "first", bound=1_000))
    began = time.perf_counter()
    catalog.wait(catalog.create("tiny", "tiny", "shared", bound=1_000))
    found.add("the same parameters again, READY by sharing the files", time.perf_counter() - began, "s")
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.by_hand"]
    command += [str(work / name) for name in ("tiny.jsonl", "model", "by-hand")]
    subprocess.run(command, check=True, capture_output=True)
    by_hand = time.perf_counter() - began
    found.add("the same with datasets.map in a new process", by_hand, "s")
    found.ratios["tiny tokenization, seconds: ours / datasets.map script"] = statistics.median(seconds) / by_hand


def _create(catalog: Catalog, found: report.Report) -> None:
    """Measure the latency of CreateTokenization on an idle stack, and the time to process what was created."""
    milliseconds = []
    for index in range(100):
        began = time.perf_counter()
        last = catalog.create("tiny", "tiny", f"latency-{index}")
        milliseconds.append(1000 * (time.perf_counter() - began))
    found.add("CreateTokenization answers (median of 100)", statistics.median(milliseconds), "ms", below=50)
    found.add("CreateTokenization answers (p99 of 100)", report.quantile(milliseconds, 0.99), "ms")
    began = time.perf_counter()
    catalog.wait(last)
    found.add("the 100 tokenizations all READY after", time.perf_counter() - began, "s")


def _resolve(catalog: Catalog, address: str, found: report.Report) -> None:
    """Measure ResolveTokenization under load from 16 callers in another process."""
    catalog.wait(catalog.create("tiny", "tiny"))
    request = tokenizations_pb2.ResolveTokenizationRequest(dataset="datasets/tiny", model="models/tiny")
    answer = catalog.tokenizations.ResolveTokenization(request)
    ours = resolve.measure(address, RESOLVE, request.SerializeToString())
    with resolve.bare_server(answer.SerializeToString()) as bare_address:
        bare = resolve.measure(bare_address, RESOLVE, request.SerializeToString())
    found.add("ResolveTokenization", ours.calls_per_second, "calls/s", above=1000)
    found.add("ResolveTokenization p50", 1000 * report.quantile(ours.latencies, 0.5), "ms")
    found.add("ResolveTokenization p99", 1000 * report.quantile(ours.latencies, 0.99), "ms", below=25)
    found.add("bare grpc.aio server, same answer from memory", bare.calls_per_second, "calls/s")
    found.ratios["ResolveTokenization, calls/s: ours / bare grpc.aio"] = ours.calls_per_second / bare.calls_per_second


def _large(catalog: Catalog, running: stack.Stack, work: pathlib.Path, found: report.Report) -> None:
    """Measure the memory of the workers while a file of a few hundred MB is processed."""
    text_bytes = corpus.write_jsonl(work / "large.jsonl", 80_000)
    stop = threading.Event()
    peak: dict[int, int] = {}

    def sample() -> None:
        while not stop.wait(0.05):
            for process in running.tree():
                try:
                    peak[process.pid] = max(peak.get(process.pid, 0), process.memory_info().rss)
                except Exception:  # the process ended between the listing and the reading
                    continue

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        began = time.perf_counter()
        catalog.add_dataset("large", work / "large.jsonl")
        ingest = time.perf_counter() - began
        began = time.perf_counter()
        catalog.wait(catalog.create("large", "tiny"))
        tokenize = time.perf_counter() - began
    finally:
        stop.set()
        sampler.join()
    found.add("large file", text_bytes / 1e6, "MB of text")
    found.add("large file read in", text_bytes / 1e6 / ingest, "MB/s")
    found.add("large file tokenized (2 workers)", text_bytes / 1e6 / tokenize, "MB/s")
    found.add("largest process of the stack meanwhile", max(peak.values()) / 2**20, "MiB", below=1024)
