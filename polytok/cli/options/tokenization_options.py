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
        help="Column with the text or conversations. By default `text`, else the only column of conversations, else "
        "the only text column with a usual name (content, document, body), else the only text column.",
        rich_help_panel=_SEQUENCES,
    ),
]
ChatTemplate = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--chat-template",
        metavar="FILE",
        help="Jinja template for conversations, instead of the tokenizer's.",
        rich_help_panel=_SEQUENCES,
        exists=True,
        dir_okay=False,
    ),
]
GenerationPrompt = Annotated[
    bool | None,
    typer.Option(
        "--generation-prompt/--no-generation-prompt",
        help="Whether to end each conversation with the prefix of an assistant message; off by default.",
        rich_help_panel=_SEQUENCES,
        show_default=False,
    ),
]
ToolsColumn = Annotated[
    str | None,
    typer.Option(
        "--tools-column",
        metavar="NAME",
        help="Column to pass to the template as tools: lists of JSON schemas, or JSON text. By default `tools`, if it "
        "exists.",
        rich_help_panel=_SEQUENCES,
    ),
]
NoTools = Annotated[
    bool,
    typer.Option("--no-tools", help="Pass no tools to the template.", rich_help_panel=_SEQUENCES),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        metavar="N",
        help="Maximum tokens per sequence, including special tokens. By default the model's context length.",
        rich_help_panel=_SEQUENCES,
    ),
]
Truncation = Annotated[
    str | None,
    shared.choice(
        "--truncation",
        "Side to truncate longer documents: right (the default) keeps the start, left the end, none everything.",
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
        help="Whether to add the tokenizer's special tokens to each document. On by default, off with packing.",
        rich_help_panel=_SEQUENCES,
        show_default=False,
    ),
]
MaxDocuments = Annotated[
    int | None,
    typer.Option(
        "--max-documents",
        metavar="N",
        help="Maximum number of documents: the first ones, or with --shuffle-seed a random sample. By default all.",
        rich_help_panel=_DOCUMENTS,
    ),
]
ShuffleSeed = Annotated[
    int | None,
    typer.Option(
        "--shuffle-seed",
        metavar="N",
        help="Seed for shuffling the documents of the whole dataset. By default they stay in order.",
        rich_help_panel=_DOCUMENTS,
    ),
]
DropDuplicates = Annotated[
    bool | None,
    typer.Option(
        "--drop-duplicates/--keep-duplicates",
        help="Whether to drop documents with the text of an earlier one; off by default.",
        rich_help_panel=_DOCUMENTS,
        show_default=False,
    ),
]
NullText = Annotated[
    str | None,
    shared.choice(
        "--null-text",
        "Documents without text: fail (the default), drop them, or take them as empty texts.",
        *("error", "drop", "empty"),
        panel=_DOCUMENTS,
    ),
]
Normalize = Annotated[
    str | None,
    shared.choice(
        "--normalize",
        "Unicode normalization of the text; none by default.",
        "nfc",
        "nfkc",
        panel=_DOCUMENTS,
    ),
]
MinCharacters = Annotated[
    int | None,
    typer.Option(
        "--min-characters", metavar="N", help="Drop documents shorter than N characters.", rich_help_panel=_DOCUMENTS
    ),
]
MaxCharacters = Annotated[
    int | None,
    typer.Option(
        "--max-characters", metavar="N", help="Drop documents longer than N characters.", rich_help_panel=_DOCUMENTS
    ),
]
Keep = Annotated[
    str | None,
    typer.Option(
        "--keep",
        metavar="REGEX",
        help="Drop documents that do not match this regular expression (RE2).",
        rich_help_panel=_DOCUMENTS,
    ),
]
Drop = Annotated[
    str | None,
    typer.Option(
        "--drop",
        metavar="REGEX",
        help="Drop documents that match this regular expression (RE2).",
        rich_help_panel=_DOCUMENTS,
    ),
]
MaxJunk = Annotated[
    float | None,
    typer.Option(
        "--max-junk",
        metavar="SHARE",
        help="Drop documents with a larger share (0 to 1) of characters other than letters, marks, numbers and white "
        "space.",
        rich_help_panel=_DOCUMENTS,
    ),
]
Overflow = Annotated[
    bool | None,
    typer.Option(
        "--overflow/--no-overflow",
        help="Whether to split longer documents into several sequences instead of truncating them.",
        rich_help_panel=_SEQUENCES,
        show_default=False,
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="N",
        help="Number of overlapping tokens between consecutive windows (default 0). Implies --overflow.",
        rich_help_panel=_SEQUENCES,
    ),
]
Pad = Annotated[
    str | None,
    shared.choice(
        "--pad",
        "Pad sequences to max-length, or to the longest of each Arrow file.",
        "max_length",
        "longest",
        panel=_SEQUENCES,
    ),
]
PadSide = Annotated[
    str | None,
    shared.choice("--pad-side", "Side to pad; right by default.", "right", "left", panel=_SEQUENCES),
]
PadToken = Annotated[
    str | None,
    shared.choice(
        "--pad-token",
        "Token to pad with; by default pad if the tokenizer has one, else eos.",
        "pad",
        "eos",
        panel=_SEQUENCES,
    ),
]
Pack = Annotated[
    bool,
    typer.Option(
        "--pack",
        help="Concatenate documents and cut them into sequences of exactly max-length tokens, as SAELens does. By "
        "default each document is one sequence.",
        rich_help_panel=_PACKING,
    ),
]
_BOUNDARIES = ("none", "bos", "eos")
BeginOfBatch = Annotated[
    str | None,
    shared.choice(
        "--begin-of-batch",
        "Token at the start of every sequence; by default bos if the tokenizer has one, else none.",
        *_BOUNDARIES,
        panel=_PACKING,
    ),
]
BeginOfSequence = Annotated[
    str | None,
    shared.choice(
        "--begin-of-sequence",
        "Token at the start of every document; none by default.",
        *_BOUNDARIES,
        panel=_PACKING,
    ),
]
Separator = Annotated[
    str | None,
    shared.choice(
        "--separator",
        "Token between documents; by default bos if the tokenizer has one, else none.",
        *_BOUNDARIES,
        panel=_PACKING,
    ),
]
Concatenation = Annotated[
    bool | None,
    typer.Option(
        "--concatenate/--no-concatenate",
        help="Whether a sequence may contain several documents; if not, incomplete sequences are dropped.",
        rich_help_panel=_PACKING,
        show_default=False,
    ),
]
DocumentStarts = Annotated[
    bool | None,
    typer.Option(
        "--document-starts/--no-document-starts",
        help="Whether to store the start positions of documents in a column `document_starts`; off by default.",
        rich_help_panel=_PACKING,
        show_default=False,
    ),
]
