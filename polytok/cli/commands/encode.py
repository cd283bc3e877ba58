"""`polytok encode`: the tokens of a text for one or more models."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from polytok.cli import session
from polytok.cli.options import shared

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from polytok.tokenizer.v1 import tokenizer_pb2

_COLOURS = ("black on cyan", "black on yellow", "black on green", "black on magenta")
_ADDED = "bold red"
_VISIBLE = {ord("\n"): "⏎\n", ord("\t"): "⇥\t", ord("\r"): "␍"}


def command(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Text; `-` reads it from standard input.")],
    models: shared.ModelOption,
    special_tokens: Annotated[
        bool,
        typer.Option("--special-tokens/--no-special-tokens", help="Whether to add special tokens to the text."),
    ] = True,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Show how models' tokenizers split a text.

    On a terminal the text is coloured token by token. Elsewhere the pieces are listed as in the vocabulary.
    With --json, each token has its id, piece and byte range.

    [dim]polytok encode "How is this split?" -m gpt2 -m llama2[/]
    [dim]cat essay.txt | polytok encode - -m gpt2 --json[/]
    """
    from polytok.cli.render import json_documents  # noqa: PLC0415  imports protobuf

    whole = _standard_input() if text == "-" else text
    with session.start(catalog, as_json) as run:
        wanted = list(dict.fromkeys(models))
        if len(wanted) == 1:
            encodings: Sequence[tokenizer_pb2.Encoding] = [
                run.client.encode(whole, wanted[0], add_special_tokens=special_tokens)
            ]
        else:
            encodings = run.client.compare(whole, wanted, add_special_tokens=special_tokens)
        shown = _shown(whole.encode(), encodings, coloured=run.out.is_terminal)
        run.out.result({"encodings": [json_documents.record(each) for each in encodings]}, shown)


def _standard_input() -> str:
    from polytok import errors  # noqa: PLC0415

    try:
        # Undecoded line ends: to a tokenizer "\r\n" is not "\n".
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        raise errors.InvalidArgument(
            f"Standard input is not UTF-8 (byte {error.start}). Convert it, for example with `iconv -t utf-8`."
        ) from error


def _shown(data: bytes, encodings: "Sequence[tokenizer_pb2.Encoding]", *, coloured: bool) -> "Text":
    from rich.text import Text  # noqa: PLC0415

    parts = []
    for encoding in encodings:
        count = len(encoding.tokens)
        parts.append(Text(f"{encoding.model.removeprefix('models/')}: {count} token{'' if count == 1 else 's'}\n"))
        parts.append(_coloured(data, encoding) if coloured else Text(" ".join(each.piece for each in encoding.tokens)))
        parts.append(Text("\n\n"))
    return Text("", end="").join(parts[:-1])


def _coloured(data: bytes, encoding: "tokenizer_pb2.Encoding") -> "Text":
    """Return the text with alternating colours of tokens; text without a token has none."""
    from rich.text import Text  # noqa: PLC0415

    text = Text()
    place = 0
    for number, token in enumerate(encoding.tokens):
        if token.start > place:
            text.append(_visible(data[place : token.start]))
        # Of tokens that share a character, the first shows it, and the others show their piece.
        own = data[max(place, token.start) : token.end]
        if token.added:
            text.append(token.piece, _ADDED)
        else:
            text.append(_visible(own) if own else token.piece, _COLOURS[number % len(_COLOURS)])
        place = max(place, token.end)
    return text.append(_visible(data[place:]))


def _visible(data: bytes) -> str:
    shown = data.decode(errors="backslashreplace").translate(_VISIBLE)
    # Control characters are escaped.
    return "".join(each if each in "\n\t" or each.isprintable() else repr(each)[1:-1] for each in shown)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("encode")(command)
