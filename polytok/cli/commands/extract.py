"""`polytok extract`: activations of a model, for the tokens of a dataset's tokenization."""

from typing import Annotated, Any

import typer

from polytok.cli import session
from polytok.cli.options import extraction_options, shared


@extraction_options.with_parameters
def command(
    dataset: shared.DatasetArgument,
    model: extraction_options.Model,
    hooks: extraction_options.Hooks,
    variant: shared.Variant = "",
    name: Annotated[
        str,
        typer.Option("--name", metavar="ID", help="Id; by default derived from dataset, model and parameters."),
    ] = "",
    *,
    how: dict[str, Any],
    watch: Annotated[
        bool, typer.Option("--watch/--no-watch", help="Wait until it is READY and show its progress.")
    ] = False,
    catalog: shared.Catalog = None,
    as_json: shared.Json = False,
) -> None:
    """Extract a model's activations for a tokenized dataset.

    HOOK is a TransformerLens hook name.
    Hooks of a block: hook_resid_pre, hook_resid_mid, hook_resid_post,
    hook_attn_out, hook_mlp_out, attn.hook_z, mlp.hook_post.
    The path of any module of the Hugging Face model works too.
    `blocks.*.hook_resid_post` means every layer. All hooks are extracted in one pass.
    Repeating the command with the same parameters returns the existing extraction.

    [dim]polytok extract docs -m gpt2 -H blocks.6.hook_resid_post --watch[/]
    [dim]polytok extract docs -m gpt2 -H 'blocks.*.hook_resid_post' --compute bfloat16 --max-tokens 10000000[/]
    [dim]polytok extract docs -m gpt2 -H blocks.0.hook_mlp_out --variant packed --no-special-tokens[/]
    [dim]polytok extraction estimate docs -m gpt2 -H blocks.6.hook_resid_post[/]   estimate the cost first
    """
    with session.start(catalog, as_json) as run:
        record: Any = run.client.extractions.create(dataset, model, hooks=hooks, variant=variant, name=name, **how)
        if watch:
            (record,) = run.follow([lambda client: client.extractions.watch(record.name)])
        run.show_list("extractions", [record])
        if watch:
            run.end([record])


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("extract")(command)
