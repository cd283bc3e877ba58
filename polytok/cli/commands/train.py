"""`polytok train`: sparse autoencoders on the activations of a model."""

import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from polytok import errors
from polytok.cli import session
from polytok.cli.options import shared

_SAES = "Autoencoders"
_TRAINING = "Training"
_SOURCE = "Activations"
_TOPK = frozenset({"topk", "batchtopk", "matryoshka_batchtopk"})
_FAMILIES = {"k": _TOPK, "l1_coefficient": frozenset({"standard", "gated"}), "l0_coefficient": frozenset({"jumprelu"})}
"""Architectures that have a coefficient."""
_ARCHITECTURES = ("standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka_batchtopk")


def _option(flag: str, metavar: str, text: str, panel: str, **more: Any) -> Any:
    return typer.Option(flag, metavar=metavar, help=text, rich_help_panel=panel, show_default=False, **more)


def _datasets_or_plot(incomplete: str) -> list[tuple[str, str]]:
    return [*shared.datasets(incomplete), ("plot", "draws the metrics of a training")]


Dataset = Annotated[
    str | None,
    typer.Argument(
        metavar="DATASET",
        help="The dataset to train on, by its id. Not with --extraction.",
        show_default=False,
        autocompletion=_datasets_or_plot,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="The model; its tokenization of the dataset must be READY.",
        autocompletion=shared.models,
        rich_help_panel=_SOURCE,
    ),
]
Extraction = Annotated[
    str | None,
    _option(
        "--extraction",
        "ID",
        "Train on an extraction instead of a running model.",
        _SOURCE,
        autocompletion=shared.extractions,
    ),
]
ContextSize = Annotated[
    int | None, _option("--context-size", "N", "Tokens that sequences are cut to; by default as they are.", _SOURCE)
]
ModelDtype = Annotated[
    str | None,
    shared.choice(
        "--model-dtype",
        "Number type that the model runs in; float32 by default.",
        "float32",
        "bfloat16",
        "float16",
        panel=_SOURCE,
    ),
]
NoSpecial = Annotated[
    bool,
    _option("--exclude-special-tokens", "", "Leave activations of special tokens out.", _SOURCE),
]
Hooks = Annotated[
    list[str] | None,
    _option(
        "--hook", "HOOK", "A hook by TransformerLens's name, such as blocks.3.hook_resid_post; may be repeated.", _SAES
    ),
]
Architectures = Annotated[
    list[str] | None,
    _option(
        "--architecture",
        "|".join(_ARCHITECTURES),
        "Kind of autoencoder; topk by default; may be repeated.",
        _SAES,
        autocompletion=lambda incomplete: [each for each in _ARCHITECTURES if each.startswith(incomplete)],
    ),
]
Latents = Annotated[list[int] | None, _option("--latents", "N", "Latents; may be repeated.", _SAES, min=1)]
K = Annotated[
    list[float] | None,
    _option("--k", "K", "topk, batchtopk, matryoshka: active latents an activation; may be repeated.", _SAES),
]
L1 = Annotated[float | None, _option("--l1", "WEIGHT", "standard, gated: weight of the sparsity penalty.", _SAES)]
L0 = Annotated[float | None, _option("--l0", "WEIGHT", "jumprelu: weight of the sparsity penalty.", _SAES)]
Normalize = Annotated[
    str | None,
    shared.choice(
        "--normalize",
        "How activations are brought to one scale; folded into the weights in the end.",
        "none",
        "expected_average_only_in",
        "covariance_whitening",
        panel=_SAES,
    ),
]
Set = Annotated[
    list[str] | None,
    _option(
        "--set", "FIELD=VALUE", "Any other field of an autoencoder, as in aux_loss_coefficient=0.03; repeatable.", _SAES
    ),
]
Config = Annotated[
    pathlib.Path | None,
    _option(
        "--config",
        "FILE",
        "Autoencoders as a JSON list of objects with hook, architecture, d_sae and coefficients.",
        _SAES,
        exists=True,
        dir_okay=False,
        readable=True,
    ),
]
Name = Annotated[str, _option("--name", "ID", "What to call the training; made up by default.", _TRAINING)]
Samples = Annotated[
    int | None, _option("--samples", "N", "Activations in all; by default every token once.", _TRAINING, min=1)
]
BatchSize = Annotated[
    int | None, _option("--batch-size", "N", "Activations a step; 4096 by default.", _TRAINING, min=1)
]
Buffer = Annotated[
    int | None,
    _option("--buffer", "N", "Activations of each hook that are mixed; 262144 by default.", _TRAINING, min=1),
]
Lr = Annotated[float | None, _option("--lr", "RATE", "Learning rate; 0.0003 by default.", _TRAINING)]
WarmUp = Annotated[int | None, _option("--warm-up", "STEPS", "Steps in which the rate rises.", _TRAINING, min=0)]
Decay = Annotated[int | None, _option("--decay", "STEPS", "Steps at the end in which it falls to 0.", _TRAINING, min=0)]
Seed = Annotated[int | None, _option("--seed", "N", "Seeds weights and the order of the data.", _TRAINING, min=0)]
Checkpoint = Annotated[
    int | None, _option("--checkpoint-every", "STEPS", "Steps between checkpoints; 1000 by default.", _TRAINING, min=1)
]
Log = Annotated[int | None, _option("--log-every", "STEPS", "Steps between rows of metrics.", _TRAINING, min=1)]
Evaluate = Annotated[
    int | None,
    _option("--evaluate-every", "STEPS", "Steps between evaluations; by default at the end alone.", _TRAINING, min=0),
]
Processes = Annotated[
    int | None,
    _option("--processes", "N", "Processes that train together, a GPU each; 1 by default.", _TRAINING, min=1, max=64),
]
Spread = Annotated[
    str | None,
    shared.choice(
        "--spread", "What processes share: every batch, or the autoencoders.", "data", "autoencoders", panel=_TRAINING
    ),
]
Autocast = Annotated[bool, _option("--autocast", "", "Compute steps in bfloat16 where that is safe.", _TRAINING)]
Compile = Annotated[bool, _option("--compile", "", "Compile steps, and a model that is read live.", _TRAINING)]


def command(
    dataset: Dataset = None,
    model: Model = None,
    variant: shared.Variant = "",
    extraction: Extraction = None,
    context_size: ContextSize = None,
    model_dtype: ModelDtype = None,
    exclude_special_tokens: NoSpecial = False,
    hooks: Hooks = None,
    architectures: Architectures = None,
    latents: Latents = None,
    k: K = None,
    l1: L1 = None,
    l0: L0 = None,
    normalize: Normalize = None,
    fields: Set = None,
    config: Config = None,
    name: Name = "",
    samples: Samples = None,
    batch_size: BatchSize = None,
    buffer: Buffer = None,
    lr: Lr = None,
    warm_up: WarmUp = None,
    decay: Decay = None,
    seed: Seed = None,
    checkpoint_every: Checkpoint = None,
    log_every: Log = None,
    evaluate_every: Evaluate = None,
    processes: Processes = None,
    spread: Spread = None,
    autocast: Autocast = False,
    compile_: Compile = False,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Stay until it is READY and show its metrics.")
    ] = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Train sparse autoencoders on a model's activations over a tokenized dataset.

    Every --hook with every --architecture, --latents and --k is one autoencoder; all are trained in one pass.
    It goes on from its last checkpoint whatever is killed; `polytok training pause` and `resume` stop and go on.
    What comes out opens with SAELens: `polytok training path` prints the folders.

    [dim]polytok train docs -m gpt2 --hook blocks.3.hook_resid_post --latents 4096 --k 32 --watch[/]
    [dim]polytok train docs -m gpt2 --hook blocks.3.hook_resid_post --architecture jumprelu --latents 4096 --l0 2[/]
    [dim]polytok train plot NAME --png curves.png[/]   draws a training; with --model it trains on a dataset `plot`
    """
    shared = _set(
        l1_coefficient=l1,
        l0_coefficient=l0,
        normalize_activations=normalize,
        lr=lr,
        lr_warm_up_steps=warm_up,
        lr_decay_steps=decay,
        seed=seed,
    ) | _fields(fields or ())
    saes = _configured(config) if config else _product(hooks, architectures or ["topk"], latents, k, shared)
    live: Any = _set(
        context_size=context_size, dtype=model_dtype, exclude_special_tokens=exclude_special_tokens or None
    )
    with session.start(catalog, as_json) as run:
        record = run.client.trainings.create(
            dataset,
            model,
            saes=saes,
            variant=variant,
            extraction=extraction,
            name=name,
            live=live,
            **_set(
                total_samples=samples,
                batch_size=batch_size,
                buffer_samples=buffer,
                seed=seed,
                checkpoint_every=checkpoint_every,
                log_every=log_every,
                evaluate_every=evaluate_every,
                processes=processes,
                spread=spread,
                autocast=autocast or None,
                compile=compile_ or None,
            ),
        )
        run.follow_training_if(watch, record)


def _product(
    hooks: Sequence[str] | None,
    architectures: Sequence[str],
    latents: Sequence[int] | None,
    k: Sequence[float] | None,
    shared: dict[str, Any],
) -> list[Any]:
    """Return an autoencoder for each hook, architecture, number of latents and k."""
    if not hooks:
        raise typer.BadParameter(
            "Name a hook, as in blocks.3.hook_resid_post, or give a --config.", param_hint="--hook"
        )
    if not latents:
        raise typer.BadParameter("Say how many latents, as in 4096, or give a --config.", param_hint="--latents")
    numbers: Sequence[float | None] = k or [None]
    chosen = itertools.product(hooks, architectures, latents, numbers)
    found = [
        _set(hook=hook, architecture=architecture, d_sae=number, k=each) | shared
        for hook, architecture, number, each in chosen
    ]
    return _own(found)


def _own(saes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave each the coefficients of its architecture; what none of them has stays, to be refused by name."""
    mixed = {sae["architecture"] for sae in saes}
    foreign = {name for name, family in _FAMILIES.items() if family & mixed}
    own = [
        {name: value for name, value in sae.items() if name not in foreign or sae["architecture"] in _FAMILIES[name]}
        for sae in saes
    ]
    # An architecture without k is there once, not for each k.
    return [sae for place, sae in enumerate(own) if sae not in own[:place]]


def _fields(pairs: Sequence[str]) -> dict[str, Any]:
    """Return the fields of `--set`, values as JSON or else as words."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} is no FIELD=VALUE.", param_hint="--set")
        try:
            found[name] = json.loads(text)
        except json.JSONDecodeError:
            found[name] = text
    return found


def _configured(path: pathlib.Path) -> list[Any]:
    """Return the autoencoders in a file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.InvalidArgument(f"{path} cannot be read as JSON ({error}).") from None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise errors.InvalidArgument(f"{path} holds no list of objects; see docs/training.md for an example.")
    return found


def _set(**values: Any) -> dict[str, Any]:
    """Return what was given on the command line."""
    return {name: value for name, value in values.items() if value is not None}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("train")(command)
