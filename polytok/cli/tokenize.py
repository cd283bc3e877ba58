"""`polytok tokenize`: a dataset for one or more models."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from polytok.cli import options, session

if TYPE_CHECKING:
    from polytok.cli.live import Watch

_SEQUENCES = "Sequences"
_PACKING = "Packing"
_DOCUMENTS = "Documents"

Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="The column that holds the text. By default `text`, else the only column of strings.",
        rich_help_panel=_SEQUENCES,
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        metavar="N",
        help="Tokens in a sequence at most, special tokens included. By default the model's context length.",
        rich_help_panel=_SEQUENCES,
    ),
]
Truncation = Annotated[
    str | None,
    options.choice(
        "--truncation",
        "What a longer document keeps: its start (right, the default), its end (left), or all of it (none).",
        "right",
        "left",
        "none",
        panel=_SEQUENCES,
    ),
]
SpecialTokens = Annotated[
    bool | None,
    typer.Option(
        "--special-tokens/--no-special-tokens",
        help="Whether the tokenizer adds its special tokens to each document. By default yes, and no when packing.",
        rich_help_panel=_SEQUENCES,
        show_default=False,
    ),
]
MaxDocuments = Annotated[
    int | None,
    typer.Option(
        "--max-documents",
        metavar="N",
        help="Take only the first N documents; by default all.",
        rich_help_panel=_DOCUMENTS,
    ),
]
Normalize = Annotated[
    str | None,
    options.choice(
        "--normalize",
        "A Unicode normalization form to bring the text into; by default every byte stays as it is.",
        "nfc",
        "nfkc",
        panel=_DOCUMENTS,
    ),
]
MinCharacters = Annotated[
    int | None,
    typer.Option("--min-characters", metavar="N", help="Drop documents of fewer.", rich_help_panel=_DOCUMENTS),
]
MaxCharacters = Annotated[
    int | None,
    typer.Option("--max-characters", metavar="N", help="Drop documents of more.", rich_help_panel=_DOCUMENTS),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="REGEX",
        help="Drop documents in which this regular expression (RE2) is not found.",
        rich_help_panel=_DOCUMENTS,
    ),
]
Drop = Annotated[
    str | None,
    typer.Option(
        "--drop",
        metavar="REGEX",
        help="Drop documents in which this regular expression (RE2) is found.",
        rich_help_panel=_DOCUMENTS,
    ),
]
MaxJunk = Annotated[
    float | None,
    typer.Option(
        "--max-junk",
        metavar="SHARE",
        help="Drop documents with a greater share (0 to 1) of characters that are neither letter, mark, number nor "
        "white space.",
        rich_help_panel=_DOCUMENTS,
    ),
]
Overflow = Annotated[
    bool | None,
    typer.Option(
        "--overflow/--no-overflow",
        help="Keep all of a longer document, as several sequences.",
        rich_help_panel=_SEQUENCES,
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="N",
        help="Tokens that each of those shares with the one before; 0 by default. Implies --overflow.",
        rich_help_panel=_SEQUENCES,
    ),
]
Pad = Annotated[
    str | None,
    options.choice(
        "--pad",
        "Fill sequences up to max-length, or up to the longest of each Arrow file.",
        "max_length",
        "longest",
        panel=_SEQUENCES,
    ),
]
PadSide = Annotated[
    str | None,
    options.choice("--pad-side", "Where padding goes; right by default.", "right", "left", panel=_SEQUENCES),
]
PadToken = Annotated[
    str | None,
    options.choice(
        "--pad-token",
        "What padding is: pad where the tokenizer has such a token, else eos.",
        "pad",
        "eos",
        panel=_SEQUENCES,
    ),
]
Pack = Annotated[
    bool,
    typer.Option(
        "--pack",
        help="Concatenate documents and cut them into sequences of exactly max-length tokens, as SAELens does; "
        "without it each document is one sequence.",
        rich_help_panel=_PACKING,
    ),
]
_BOUNDARIES = ("none", "bos", "eos")
BeginOfBatch = Annotated[
    str | None,
    options.choice(
        "--begin-of-batch", "The token at the start of every sequence; bos by default.", *_BOUNDARIES, panel=_PACKING
    ),
]
BeginOfSequence = Annotated[
    str | None,
    options.choice(
        "--begin-of-sequence",
        "The token at the start of every document; none by default.",
        *_BOUNDARIES,
        panel=_PACKING,
    ),
]
Separator = Annotated[
    str | None,
    options.choice("--separator", "The token between documents; bos by default.", *_BOUNDARIES, panel=_PACKING),
]
Concatenation = Annotated[
    bool | None,
    typer.Option(
        "--concatenate/--no-concatenate",
        help="Whether a sequence may hold several documents; if not, what does not fill a sequence is dropped.",
        rich_help_panel=_PACKING,
        show_default=False,
    ),
]
DocumentStarts = Annotated[
    bool | None,
    typer.Option(
        "--document-starts/--no-document-starts",
        help="Whether to store where in each sequence documents start, in a column `document_starts`; by default no.",
        rich_help_panel=_PACKING,
        show_default=False,
    ),
]


def command(
    dataset: options.DatasetArgument,
    models: options.ModelOption,
    variant: options.Variant = "",
    column: Column = None,
    max_length: MaxLength = None,
    truncation: Truncation = None,
    special_tokens: SpecialTokens = None,
    overflow: Overflow = None,
    stride: Stride = None,
    pad: Pad = None,
    pad_side: PadSide = None,
    pad_token: PadToken = None,
    pack: Pack = False,
    begin_of_batch: BeginOfBatch = None,
    begin_of_sequence: BeginOfSequence = None,
    separator: Separator = None,
    concatenate: Concatenation = None,
    document_starts: DocumentStarts = None,
    max_documents: MaxDocuments = None,
    normalize: Normalize = None,
    min_characters: MinCharacters = None,
    max_characters: MaxCharacters = None,
    keep: Keep = None,
    drop: Drop = None,
    max_junk: MaxJunk = None,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Stay until all are READY and show their progress.")
    ] = False,
    catalog: options.Catalog = None,
    as_json: options.Json = False,
) -> None:
    """Tokenize a dataset for one or more models.

    Each model gets a tokenization of its own: its files, statistics and state.
    Asking again with the same parameters gives the one that exists; other parameters need a --variant.
    A packing option implies --pack, and a padding option --pad.

    [dim]polytok tokenize docs --model gpt2 --model llama2 --watch[/]
    [dim]polytok tokenize docs -m gpt2 --variant packed-512 --pack --max-length 512 --separator eos[/]
    """
    packing = _set(
        begin_of_batch=begin_of_batch,
        begin_of_sequence=begin_of_sequence,
        separator=separator,
        document_starts=document_starts,
    )
    if concatenate is not None:
        packing["disable_concatenation"] = not concatenate
    filters = _set(
        min_characters=min_characters,
        max_characters=max_characters,
        keep_pattern=keep,
        drop_pattern=drop,
        max_junk=max_junk,
    )
    parameters = _set(
        text_column=column,
        max_length=max_length,
        truncation=truncation,
        add_special_tokens=special_tokens,
        overflow=True if stride and overflow is None else overflow,
        stride=stride,
        max_documents=max_documents,
        normalization=normalize,
        filters=filters or None,
        padding=_set(to=pad, side=pad_side, token=pad_token) or None,
        packing=(packing or True) if pack or packing else None,
    )
    with session.start(catalog, as_json) as run:
        records = [
            run.client.tokenizations.create(dataset, model, variant=variant, **parameters)
            for model in dict.fromkeys(models)
        ]
        if watch:
            records = run.follow([_watch(record.name) for record in records])
        run.show_list("tokenizations", records)
        if watch:
            run.end(records)


def _watch(name: str) -> "Watch":
    return lambda client: client.tokenizations.watch(name)


def _set(**values: Any) -> dict[str, Any]:
    """What was given on the command line."""
    return {name: value for name, value in values.items() if value is not None}


def register(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("tokenize")(command)
