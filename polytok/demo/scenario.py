"""The steps of the demo: a corpus, two models, tokenizations, decoded rows, a layer and an SAE for each model."""

import functools
import pathlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from polytok import errors
from polytok.cli.render import progress
from polytok.cli.render.output import Output
from polytok.client import AsyncClient, Client, training_arguments, watch_stream
from polytok.demo import corpus, demo_stack, report, sample_rows, step_display

DATASET = "python-library"
TRAINING_SHARE = 3
"""The tokenizers train on one in this many documents."""
PRETRAINING_SHARE = 7
"""The models train on one in this many documents, which is several times the text that their steps need."""
HOOK = "blocks.1.hook_resid_post"
"""The extracted hook of both models: the residual stream after the last block."""
EXTRACTED_TOKENS = 100_000
"""Maximum number of extracted tokens: about 26 MB per model."""
SAE: training_arguments.Sae = {"hook": HOOK, "architecture": "topk", "d_sae": 512, "k": 16, "lr": 1e-3}
"""The autoencoder to train on each extraction."""
TRAINED_SAMPLES = 300_000
"""Three passes over the extraction, which take some seconds per model."""
EVALUATED = 8
"""Number of held-out rows of the extraction."""


def run(out: Output) -> None:
    """Run the demo; another run reuses everything."""
    try:
        _run(out)
    except KeyboardInterrupt:
        out.remark("Stopped. `polytok demo` continues from here.")
        raise


def _run(out: Output) -> None:
    out.remark("[bold]Polytok:[/] one dataset, many tokenizations.\n")
    with demo_stack.running() as stack:
        folder = demo_stack.folder()
        text = _corpus(out, folder)
        models = _models(out, folder, text)
        with step_display.step(out, "Stack", "Waiting for the stack") as step:
            address = stack.address()
            whose = "started for this demo" if stack.is_ours else "already running"
            step.finish(f"Postgres, NATS, catalog and workers; {whose}, catalog at {address}")
        with Client(address) as client:
            made = _register(out, client, text, models)
            rows = client.datasets.get(DATASET).num_samples
            step_display.line(out, "Registered", f"{DATASET}, {rows:,} rows; {', '.join(models)}")
            made += _tokenize(out, client, list(models))
            tokenizations = [client.tokenizations.resolve(DATASET, model) for model in models]
            read = sample_rows.rows(client, tokenizations, text)
            made += _extract(out, client, list(models))
            extractions = [client.extractions.get(extraction(model)) for model in models]
            made += _train(out, client, list(models))
            trainings = [client.trainings.get(training(model)) for model in models]
        report.show(out, tokenizations, extractions, trainings, read, made)


def _corpus(out: Output, folder: pathlib.Path) -> pathlib.Path:
    path = folder / "corpus.jsonl"
    with step_display.step(out, "Corpus", "Collecting Python's documentation, docstrings and sources") as step:
        verb = "reused"
        if not path.exists():
            corpus.write(path, step.advance)
            verb = "collected"
        size = path.stat().st_size / 1e6
        step.finish(f"{size:.1f} MB of Python's documentation, docstrings and sources {verb}")
    return path


def _models(out: Output, folder: pathlib.Path, text: pathlib.Path) -> dict[str, pathlib.Path]:
    """Create the models; return their folders by id."""
    from polytok.demo import demo_models, pretraining  # noqa: PLC0415  import tokenizers

    found = {}
    for recipe in demo_models.RECIPES:
        found[recipe.model_id] = folder / "models" / recipe.model_id
        with step_display.step(out, "Model", f"Training a {recipe.tokenizer}") as step:
            verb = "reused"
            if not found[recipe.model_id].exists():
                tokenizer = recipe.train(corpus.texts(text, TRAINING_SHARE))
                step.say(f"Training {recipe.model_id}")
                texts = corpus.texts(text, PRETRAINING_SHARE)
                demo_models.save(recipe, tokenizer, found[recipe.model_id], texts, report=step.advance)
                verb = f"trained; weights: {pretraining.STEPS} steps"
            step.finish(f"{recipe.model_id}: {recipe.tokenizer}, {verb}")
    return found


def _register(out: Output, client: Client, text: pathlib.Path, models: dict[str, pathlib.Path]) -> list[str]:
    """Register the dataset and the models and wait for them; return the names of new records."""
    made = []
    if _ensure(client.datasets, functools.partial(client.datasets.create, DATASET, files=text), DATASET):
        made.append(f"datasets/{DATASET}")
    for model, folder in models.items():
        if _ensure(client.models, functools.partial(client.models.create, model, str(folder)), model):
            made.append(f"models/{model}")
    _until_ready(out, client, [_Watch("datasets", DATASET), *(_Watch("models", model) for model in models)])
    return made


def _tokenize(out: Output, client: Client, models: list[str]) -> list[str]:
    """Create both tokenizations and wait for them; return the names of new records."""
    made = []
    for model in models:
        create = functools.partial(client.tokenizations.create, DATASET, model)
        if _ensure(client.tokenizations, create, DATASET, model):
            made.append(f"datasets/{DATASET}/tokenizations/{model}")
    _until_ready(out, client, [_Watch("tokenizations", DATASET, model) for model in models])
    return made


def extraction(model: str) -> str:
    """Return the id of the extraction of a model."""
    return f"{model}-layer-1"


def training(model: str) -> str:
    """Return the id of the training on the extraction of a model."""
    return f"{model}-sae"


def _extract(out: Output, client: Client, models: list[str]) -> list[str]:
    """Extract one layer of both models and wait for it; return the names of new records."""
    made = []
    for model in models:
        create = functools.partial(
            client.extractions.create,
            DATASET,
            model,
            hooks=[HOOK],
            name=extraction(model),
            context_size=128,
            max_tokens=EXTRACTED_TOKENS,
        )
        if _ensure(client.extractions, create, extraction(model)):
            made.append(f"extractions/{extraction(model)}")
    _until_ready(out, client, [_Watch("extractions", extraction(model)) for model in models])
    return made


def _train(out: Output, client: Client, models: list[str]) -> list[str]:
    """Train an SAE on each extraction and wait for it; return the names of new records."""
    made = []
    for model in models:
        create = functools.partial(
            client.trainings.create,
            extraction=extraction(model),
            name=training(model),
            saes=[SAE],
            batch_size=1024,
            total_samples=TRAINED_SAMPLES,
            evaluation_sequences=EVALUATED,
        )
        if _ensure(client.trainings, create, training(model)):
            made.append(f"trainings/{training(model)}")
    _until_ready(out, client, [_Watch("trainings", training(model)) for model in models])
    return made


class _Watch:
    """Watches one record."""

    def __init__(self, kind: str, *reference: str) -> None:
        self._kind = kind
        self._reference = reference

    def __call__(self, client: AsyncClient) -> AsyncIterator[Any]:
        versions: AsyncIterator[Any] = getattr(client, self._kind).watch(*self._reference)
        return versions


def _ensure(resources: Any, create: Callable[[], Any], *reference: str) -> bool:
    """Create a record if it does not exist, or retry it if it failed or was cancelled; return whether it did either."""
    try:
        record = resources.get(*reference)
    except errors.NotFound:
        create()
        return True
    if watch_stream.state(record) in {"ERROR", "CANCELLED"}:
        resources.retry(*reference)
        return True
    return False


def _until_ready(out: Output, client: Client, watches: Sequence[_Watch]) -> None:
    for record in progress.follow(out, client.address, watches):
        watch_stream.ready(record)
