"""Options of `polytok extract` and `polytok extraction estimate`."""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polytok.cli.options import shared

if TYPE_CHECKING:
    from polytok.client.extractions import Parameters

_FORMATS = ("float32", "float16", "bfloat16")

Model = Annotated[
    str,
    typer.Option("--model", "-m", metavar="MODEL", help="Model to run.", autocompletion=shared.models),
]
Hooks = Annotated[
    list[str],
    typer.Option("--hook", "-H", metavar="HOOK", help="Hook name, such as blocks.6.hook_resid_post; repeatable."),
]
ContextSize = Annotated[
    int | None,
    typer.Option(
        "--context-size",
        metavar="N",
        min=1,
        help="Maximum tokens of a sequence, and activations in a row. By default the longest sequence.",
    ),
]
MaxSequences = Annotated[
    int | None, typer.Option("--max-sequences", metavar="N", min=1, help="Maximum number of sequences, from the first.")
]
MaxTokens = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=1, help="Maximum number of tokens, in whole sequences.")
]
BatchSize = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", min=1, help="Sequences in a forward pass. By default chosen for speed."),
]
ComputeFormat = Annotated[
    str | None, shared.choice("--compute", "Number format of the model; float32 by default.", *_FORMATS)
]
StorageFormat = Annotated[
    str | None, shared.choice("--store", "Number format of the files; by default that of the model.", *_FORMATS)
]
SpecialTokens = Annotated[
    bool | None,
    typer.Option(
        "--special-tokens/--no-special-tokens",
        help="Whether to store the activations of special tokens (the default); the model always sees them.",
        show_default=False,
    ),
]
Excluded = Annotated[
    list[int] | None,
    typer.Option("--exclude", metavar="ID", min=0, help="Leave out the activations of this token id; repeatable."),
]
Positions = Annotated[
    list[int] | None,
    typer.Option(
        "--exclude-position",
        metavar="N",
        min=0,
        help="Leave out the activations at this position, from 0, of every sequence; repeatable.",
    ),
]
Nonfinite = Annotated[
    str | None, shared.choice("--nonfinite", "What to do with NaN and infinity; fail by default.", "fail", "keep")
]
Compiled = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Whether to compile the model with torch.compile; off by default.",
        show_default=False,
    ),
]


def parameters(
    context_size: ContextSize = None,
    max_sequences: MaxSequences = None,
    max_tokens: MaxTokens = None,
    batch_size: BatchSize = None,
    compute_format: ComputeFormat = None,
    storage_format: StorageFormat = None,
    special_tokens: SpecialTokens = None,
    excluded: Excluded = None,
    positions: Positions = None,
    nonfinite: Nonfinite = None,
    compiled: Compiled = None,
) -> "Parameters":
    """Return the options that were given."""
    given: Any = {
        "context_size": context_size,
        "max_sequences": max_sequences,
        "max_tokens": max_tokens,
        "batch_size": batch_size,
        "compute_format": compute_format,
        "storage_format": storage_format,
        "exclude_special_tokens": None if special_tokens is None else not special_tokens,
        "excluded_token_ids": excluded,
        "excluded_positions": positions,
        "nonfinite": nonfinite,
        "compile": compiled,
    }
    found: Parameters = {name: value for name, value in given.items() if value is not None}  # type: ignore[assignment]
    return found


def with_parameters(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with these options instead of its argument `how`, which receives them."""
    shared = inspect.signature(parameters).parameters
    taken: dict[str, inspect.Parameter] = {}
    for name, own in inspect.signature(command).parameters.items():
        taken |= shared if name == "how" else {name: own}

    def run(**given: Any) -> None:
        how = parameters(**{name: given.pop(name) for name in shared})
        command(**given, how=how)

    # typer reads the name, the docstring and the signature.
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {name: each.annotation for name, each in taken.items()}
    signature = inspect.Signature([each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in taken.values()])
    run.__signature__ = signature  # type: ignore[attr-defined]
    return run
