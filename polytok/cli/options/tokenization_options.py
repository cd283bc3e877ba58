"""The options of `polytok tokenize`."""

import pathlib
from typing import Annotated

import typer

from polytok.cli.options import shared

_SEQUENCES = "Sequences"
_PACKING = "Packing"
_DOCUMENTS = "Documents"

Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        metavar="NAME",
        help="The column that holds the text or conversations. By default `text`, else the only one of conversations, "
        "else the only one of text with a usual name (content, document, body), else the only one of text.",
        rich_help_panel=_SEQUENCES,
    ),
]
ChatTemplate = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--chat-template",
        metavar="FILE",
        help="A Jinja template that renders conversations, in place of the tokenizer's own.",
        rich_help_panel=_SEQUENCES,
        exists=True,
        dir_okay=False,
    ),
]
GenerationPrompt = Annotated[
    bool | None,
    typer.Option(
        "--generation-prompt/--no-generation-prompt",
        help="Whether each conversation ends with what begins an answer of the assistant; by default no.",
        rich_help_panel=_SEQUENCES,
        show_default=False,
    ),
]
ToolsColumn = Annotated[
    str | None,
    typer.Option(
        "--tools-column",
        metavar="NAME",
        help="The column whose values the template is given as tools: lists of JSON schemas, or their text. By default "
        "`tools`, if there is one.",
        rich_help_panel=_SEQUENCES,
    ),
]
NoTools = Annotated[
    bool,
    typer.Option(
        "--no-tools", help="Gives the template no tools, whatever columns there are.", rich_help_panel=_SEQUENCES
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
    shared.choice(
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
        help="Take only N documents: the first ones, or with --shuffle-seed a random sample; by default all.",
        rich_help_panel=_DOCUMENTS,
    ),
]
ShuffleSeed = Annotated[
    int | None,
    typer.Option(
        "--shuffle-seed",
        metavar="N",
        help="Shuffle the documents of the whole dataset; the same number gives the same order. By default they stay "
        "in the dataset's order.",
        rich_help_panel=_DOCUMENTS,
    ),
]
DropDuplicates = Annotated[
    bool | None,
    typer.Option(
        "--drop-duplicates/--keep-duplicates",
        help="Whether to drop documents whose text occurred before in the dataset; by default they are kept.",
        rich_help_panel=_DOCUMENTS,
        show_default=False,
    ),
]
Normalize = Annotated[
    str | None,
    shared.choice(
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
    shared.choice(
        "--pad",
        "Fill sequences up to max-length, or up to the longest of each Arrow file.",
        "max_length",
        "longest",
        panel=_SEQUENCES,
    ),
]
PadSide = Annotated[
    str | None,
    shared.choice("--pad-side", "Where padding goes; right by default.", "right", "left", panel=_SEQUENCES),
]
PadToken = Annotated[
    str | None,
    shared.choice(
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
    shared.choice(
        "--begin-of-batch",
        "The token at the start of every sequence; bos by default where the tokenizer has one, else none.",
        *_BOUNDARIES,
        panel=_PACKING,
    ),
]
BeginOfSequence = Annotated[
    str | None,
    shared.choice(
        "--begin-of-sequence",
        "The token at the start of every document; none by default.",
        *_BOUNDARIES,
        panel=_PACKING,
    ),
]
Separator = Annotated[
    str | None,
    shared.choice(
        "--separator",
        "The token between documents; bos by default where the tokenizer has one, else none.",
        *_BOUNDARIES,
        panel=_PACKING,
    ),
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
