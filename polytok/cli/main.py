"""`polytok`: assembles the commands and turns errors into exit codes."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from polytok import errors
from polytok.cli import crash_report, exit_codes, help_format
from polytok.cli.commands import (
    dataset,
    encode,
    extract,
    extraction,
    model,
    stack,
    tokenization,
    tokenize,
    train,
    training,
)


class Root(TyperGroup):
    """The root command. `train plot` is an alias of `training plot`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """See click.Group. With an option that only `train` takes, such as --model, `plot` is the name of a dataset."""
        if args[:2] == ["train", "plot"]:
            trainings: Any = self.commands["training"]
            taken, own = (_options(command) for command in (self.commands["train"], trainings.commands["plot"]))
            given = {_option(word) for word in args[2:]}
            if not given & (taken - own):
                return "train", trainings, args[1:]
        return super().resolve_command(ctx, args)


def _options(command: Any) -> set[str]:
    """Return the options of a command."""
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def _option(word: str) -> str:
    """Return the option in a word, such as `--model` of `--model=gpt2` and `-m` of `-mgpt2`."""
    return word.partition("=")[0] if word.startswith("--") else word[:2]


app = help_format.App(
    name="polytok",
    cls=Root,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=exit_codes.EPILOG,
    help="""One dataset, many tokenizations.

Import a corpus once, tokenize it for any number of models, and find each tokenization by (dataset, model).

[bold]First steps[/]
[dim]polytok demo[/]                           run an end-to-end demo
[dim]polytok up[/]                             run a stack; then, in another terminal:
[dim]polytok dataset add docs *.jsonl[/]       import a corpus
[dim]polytok model add gpt2 ./gpt2[/]          register a model
[dim]polytok tokenize docs -m gpt2 --watch[/]  tokenize the corpus for the model
[dim]polytok tokenization path docs gpt2[/]    print the folder for load_from_disk
[dim]polytok extract docs -m gpt2 -H blocks.6.hook_resid_post[/]   extract activations
[dim]polytok train docs -m gpt2 --help[/]      train sparse autoencoders on activations
""",
)
stack.register(app)
app.add_typer(dataset.app, name="dataset")
app.add_typer(model.app, name="model")
tokenize.register(app)
encode.register(app)
app.add_typer(tokenization.app, name="tokenization")
extract.register(app)
app.add_typer(extraction.app, name="extraction")
train.register(app)
app.add_typer(training.app, name="training")


def _version(asked: bool) -> None:
    if asked:
        import importlib.metadata  # noqa: PLC0415

        typer.echo(f"polytok {importlib.metadata.version('polytok')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    del version


def run(arguments: Sequence[str]) -> int:
    """Run one command line; return its exit code."""
    try:
        code = app(list(arguments), prog_name="polytok", standalone_mode=False)
        sys.stdout.flush()
    except errors.PolytokError as error:
        return _report(error, arguments)
    except (KeyboardInterrupt, typer.Abort):
        return exit_codes.INTERRUPTED
    except BrokenPipeError:
        crash_report.silence(sys.stdout)  # the reader of the pipe is gone
        return exit_codes.FAILED
    except Exception as error:
        if hasattr(error, "format_message"):
            return _report_usage_error(error, arguments)
        return _report(crash_report.to_internal_error(error), arguments)
    return code if isinstance(code, int) else exit_codes.OK


def _report(error: errors.PolytokError, arguments: Sequence[str]) -> int:
    from polytok.cli.render.output import Output  # noqa: PLC0415

    Output(as_json="--json" in arguments).failure(error)
    return exit_codes.code(error)


def _report_usage_error(error: Any, arguments: Sequence[str]) -> int:
    """Report an error in the command line that typer found."""
    if not error.format_message():  # no arguments: the help was shown
        return exit_codes.USAGE
    if "--json" in arguments:
        return _report(errors.InvalidArgument(error.format_message()), arguments)
    if hasattr(error, "show"):
        error.show()
    else:
        typer.echo(f"Error: {error.format_message()}", err=True)
    return exit_codes.USAGE


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))
