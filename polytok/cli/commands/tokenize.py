"""`polytok tokenize`: tokenize a dataset for one or more models."""

import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polytok import errors
from polytok.cli import session
from polytok.cli.options import shared, tokenization_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polytok.catalog.v1.tokenizations_pb2 import TokenizationParameters
    from polytok.cli.render.progress import Watch


_UNUSED_ARGUMENTS = ("documents", "chat_template_kwargs")
"""Columns that other trainers pass to chat templates."""


def command(
    dataset: shared.DatasetArgument,
    models: shared.ModelOption,
    variant: shared.Variant = "",
    column: tokenization_options.Column = None,
    chat_template: tokenization_options.ChatTemplate = None,
    generation_prompt: tokenization_options.GenerationPrompt = None,
    tools_column: tokenization_options.ToolsColumn = None,
    no_tools: tokenization_options.NoTools = False,
    max_length: tokenization_options.MaxLength = None,
    truncation: tokenization_options.Truncation = None,
    special_tokens: tokenization_options.SpecialTokens = None,
    overflow: tokenization_options.Overflow = None,
    stride: tokenization_options.Stride = None,
    pad: tokenization_options.Pad = None,
    pad_side: tokenization_options.PadSide = None,
    pad_token: tokenization_options.PadToken = None,
    pack: tokenization_options.Pack = False,
    begin_of_batch: tokenization_options.BeginOfBatch = None,
    begin_of_sequence: tokenization_options.BeginOfSequence = None,
    separator: tokenization_options.Separator = None,
    concatenate: tokenization_options.Concatenation = None,
    document_starts: tokenization_options.DocumentStarts = None,
    max_documents: tokenization_options.MaxDocuments = None,
    shuffle_seed: tokenization_options.ShuffleSeed = None,
    null_text: tokenization_options.NullText = None,
    normalize: tokenization_options.Normalize = None,
    min_characters: tokenization_options.MinCharacters = None,
    max_characters: tokenization_options.MaxCharacters = None,
    keep: tokenization_options.Keep = None,
    drop: tokenization_options.Drop = None,
    max_junk: tokenization_options.MaxJunk = None,
    drop_duplicates: tokenization_options.DropDuplicates = None,
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Wait until all are READY and show their progress.")
    ] = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Tokenize a dataset for one or more models.

    Each model gets its own tokenization with files, statistics and state.
    Repeating the command with the same parameters returns the existing one. Other parameters need a --variant.
    Packing options imply --pack, padding options imply --pad.

    [dim]polytok tokenize docs --model gpt2 --model llama2 --watch[/]
    [dim]polytok tokenize docs -m gpt2 --variant packed-512 --pack --max-length 512 --separator eos[/]
    [dim]polytok tokenize docs -m gpt2 --variant sample --shuffle-seed 7 --max-documents 10000 --drop-duplicates[/]
    [dim]polytok tokenize chats -m llama3-instruct --column messages[/]
    """
    if no_tools and tools_column:
        raise typer.BadParameter("cannot be combined with --tools-column.", param_hint="--no-tools")
    chat = _set(
        template=_template(chat_template),
        add_generation_prompt=generation_prompt,
        tools_column="" if no_tools else tools_column,
    )
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
        drop_duplicates=drop_duplicates,
    )
    parameters = _set(
        text_column=column,
        chat=chat or None,
        max_length=max_length,
        truncation=truncation,
        add_special_tokens=special_tokens,
        overflow=True if stride and overflow is None else overflow,
        stride=stride,
        max_documents=max_documents,
        shuffle_seed=shuffle_seed,
        null_text=null_text,
        normalization=normalize,
        filters=filters or None,
        padding=_set(to=pad, side=pad_side, token=pad_token) or None,
        packing=(packing or True) if pack or packing else None,
    )
    with session.start(catalog, as_json) as run:
        records = _create(run, dataset, models, variant, parameters)
        if column is None:
            _print_column(run, dataset, records[0].parameters)
        if separator is None:
            _print_unseparated(run, records)
        if records[0].parameters.HasField("chat"):
            _print_template_arguments(
                run, dataset, records[0].parameters.chat.tools_column if tools_column is None else ""
            )
        if watch:
            records = run.follow([_watch(record.name) for record in records])
            _print_unused_tools(run, records)
            _print_truncated(run, records)
        run.show_list("tokenizations", records)
        if watch:
            run.end(records)


def _create(
    run: session.Session, dataset: str, models: "Sequence[str]", variant: str, parameters: dict[str, Any]
) -> list[Any]:
    """Create the tokenizations, after checking that dataset and models exist.

    Prints those that were created before an error.
    """
    found = run.client.datasets.get(dataset).name
    wanted = dict.fromkeys(run.client.models.get(model).name for model in models)
    made: list[Any] = []
    try:
        for model in wanted:
            record = run.client.tokenizations.create(found, model, variant=variant, **parameters)
            made.append(record)
    except errors.PolytokError:
        if made:
            run.out.remark("Created before the error:")
            run.show_list("tokenizations", made)
        raise
    return made


def _print_column(run: session.Session, dataset: str, chosen: "TokenizationParameters") -> None:
    """Print which column the catalog chose."""
    what = "conversations" if chosen.HasField("chat") else "text"
    run.out.remark(f"Using column `{chosen.text_column}` of {dataset} for the {what}: {chosen.column_choice}.")


def _print_unseparated(run: session.Session, records: "Sequence[Any]") -> None:
    """Print which models separate no documents because their tokenizer has no beginning-of-sequence token."""
    for record in records:
        packing = record.parameters.packing
        if record.parameters.HasField("packing") and packing.separator == packing.BOUNDARY_NONE:
            model = record.name.rpartition("/")[2].partition("~")[0]
            run.out.remark(
                f"The tokenizer of {model} has no beginning-of-sequence token, so documents are not separated. "
                "`--separator eos` separates them with the end-of-sequence token."
            )


def _print_template_arguments(run: session.Session, dataset: str, tools: str) -> None:
    """Print which columns are passed to chat templates, and which usual ones are not."""
    if tools:
        run.out.remark(f"Using column `{tools}` for the tools of each conversation.")
    unused = [each.name for each in run.client.datasets.get(dataset).columns if each.name in _UNUSED_ARGUMENTS]
    if unused:
        run.out.remark(f"Not passed to the chat template: column `{'`, `'.join(unused)}`.")


def _print_unused_tools(run: session.Session, records: "Sequence[Any]") -> None:
    """Print which templates ignore the tools passed to them."""
    for record in records:
        if unused := record.statistics.num_tools_unused:
            run.out.remark(
                f"The chat template of {record.model} ignores tools: those of {unused:,} conversations are not in the "
                "ids. Use another template (`--chat-template`), or pass no tools (`--no-tools`)."
            )


def _print_truncated(run: session.Session, records: "Sequence[Any]") -> None:
    """Print how many documents lost tokens at max_length; windows with overflow lose none."""
    for record in records:
        cut = record.statistics.num_truncated
        if cut and not record.parameters.overflow and not record.parameters.HasField("packing"):
            run.out.remark(
                f"{record.model}: {cut:,} of {record.statistics.num_documents:,} documents were cut at "
                f"{record.parameters.max_length:,} tokens. `--overflow` splits them, `--pack` keeps every token."
            )


def _template(file: pathlib.Path | None) -> str | None:
    """Return the text of a template file; the catalog limits its length."""
    if file is None:
        return None
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{file} cannot be read as UTF-8 text.", param_hint="--chat-template") from error


def _watch(name: str) -> "Watch":
    return lambda client: client.tokenizations.watch(name)


def _set(**values: Any) -> dict[str, Any]:
    """Return the arguments that were given."""
    return {name: value for name, value in values.items() if value is not None}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("tokenize")(command)
