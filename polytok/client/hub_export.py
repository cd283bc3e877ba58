"""Export trained autoencoders as a Hugging Face repository: one folder per hook, and a model card.

Files are uploaded in one commit from where the training published them, without copying. The same layout can be written
to a disk with hard links. https://huggingface.co/docs/huggingface_hub/guides/upload
"""

import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from polytok import errors
from polytok.client import trainings, watch_stream
from polytok.trainer.v1 import trainings_pb2 as pb

CARD = "README.md"
FILES = ("cfg.json", "sae_weights.safetensors", "sparsity.safetensors")
"""The files of a published autoencoder."""
_MOST_SHOWN = 8
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?")
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,127}")


class Export(NamedTuple):
    """An autoencoder, its hook, and the folder that SAELens opens."""

    name: str
    hook: str
    folder: pathlib.Path


def list_exports(training: pb.Training, sae: str = "") -> list[Export]:
    """Return the autoencoders of a READY training, or the one named `sae`.

    Downloads them from an object store if needed. Raises `errors.InvalidArgument` if none has that name.
    """
    watch_stream.ready(training)
    chosen = [result for result in training.results if sae in ("", result.name)]
    if not chosen:
        known = ", ".join(result.name for result in training.results)
        raise _invalid("sae", f"{training.name} has no autoencoder {sae!r}. Expected one of: {known}.")
    return [
        Export(result.name, result.hook, pathlib.Path(trainings.sae_path(training, result.name))) for result in chosen
    ]


class Layout(NamedTuple):
    """The contents of a repository."""

    card: str
    files: dict[str, pathlib.Path]
    """Local files by their `/`-separated path in the repository."""


def plan_layout(exports: Sequence[Export], repository: str) -> Layout:
    """Plan a repository. An autoencoder's folder is its hook, or hook and name if a hook has several.

    Raises `errors.NotFound` for an incomplete export, `errors.InvalidArgument` for names that cannot be paths.
    """
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise _invalid("repository", f"Invalid repository name {repository!r}. Write it as owner/name.")
    hooks = [each.hook for each in exports]
    files: dict[str, pathlib.Path] = {}
    configs: dict[str, Mapping[str, Any]] = {}
    for each in exports:
        for part in (each.hook, each.name):
            if not _NAME.fullmatch(part) or ".." in part:
                raise _invalid(
                    "name", f"{part!r} cannot be a folder name. Use letters, digits, dots, dashes and underscores."
                )
        identifier = each.hook if hooks.count(each.hook) == 1 else f"{each.hook}/{each.name}"
        if identifier in configs:
            raise _invalid("name", f"{identifier!r} occurs twice. Give every autoencoder a unique name.")
        for file in FILES:
            if not (each.folder / file).is_file():
                raise errors.NotFound(
                    f"{each.folder} is not a complete export: {file} is missing. Export {each.name} first."
                )
            files[f"{identifier}/{file}"] = each.folder / file
        configs[identifier] = json.loads((each.folder / FILES[0]).read_text(encoding="utf-8"))
    return Layout(_card(repository, configs), files)


def write_layout(layout: Layout, folder: pathlib.Path) -> None:
    """Write the repository to a new or empty folder with hard links; copies files from other disks."""
    if folder.exists() and any(folder.iterdir()):
        raise errors.AlreadyExists(f"{folder} is not empty. Name a new folder, or empty this one.")
    for path, source in layout.files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    (folder / CARD).write_text(layout.card, encoding="utf-8")


def push(
    layout: Layout,
    repository: str,
    *,
    revision: str = "main",
    private: bool = True,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Upload the repository in one commit, creating it if it does not exist. Returns the commit's URL.

    Without a token, uses the one of `hf auth login`. Raises `errors.PermissionDenied`, `errors.NotFound` and
    `errors.Unavailable`.
    """
    huggingface_hub = _hub()
    api = huggingface_hub.HfApi(endpoint=endpoint, token=token)
    additions = [
        huggingface_hub.CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(source))
        for path, source in layout.files.items()
    ]
    card = huggingface_hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=layout.card.encode())
    message = f"Autoencoders: {', '.join(sorted({path.split('/')[0] for path in layout.files}))}"
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        commit = api.create_commit(repository, [card, *additions], commit_message=message[:120], revision=revision)
    except huggingface_hub.errors.HFValidationError as error:
        raise _invalid("repository", f"{error}") from error
    except huggingface_hub.errors.RevisionNotFoundError as error:
        raise errors.NotFound(
            f"{repository} has no revision {revision!r}. Push to main, or create the branch."
        ) from error
    except huggingface_hub.errors.HfHubHTTPError as error:
        raise _refused(repository, error) from error
    except Exception as error:
        # The hub's client is httpx under a changing name; its errors derive from none of Python's. A failed upload in
        # one of its threads is raised as RuntimeError.
        if not isinstance(error, OSError | RuntimeError) and not type(error).__module__.startswith("httpx"):
            raise
        raise errors.Unavailable(
            f"{repository} cannot be reached: {error}. Check the network, then push again."
        ) from error
    return str(commit.commit_url)


def _hub() -> Any:
    """Import the hub's package on first use: the rest of the client works without it."""
    try:
        import huggingface_hub  # noqa: PLC0415
        import huggingface_hub.errors  # noqa: PLC0415
    except ImportError as error:
        raise errors.FailedPrecondition(
            "Uploading needs the package `huggingface_hub`. Install it with `pip install huggingface_hub`."
        ) from error
    return huggingface_hub


def _refused(repository: str, error: Any) -> errors.PolytokError:
    status = getattr(error.response, "status_code", 0)
    said = getattr(error, "server_message", None) or f"status {status}"
    if status in {401, 403, 404}:
        return errors.PermissionDenied(
            f"The hub denied access to {repository} ({said}). Log in with `hf auth login`, with a token for writing."
        )
    return errors.Unavailable(f"The hub failed for {repository} ({said}). Push again later.")


def _card(repository: str, configs: Mapping[str, Mapping[str, Any]]) -> str:
    models = sorted({str(_metadata(config, "model_name")) for config in configs.values()})
    rows = "\n".join(_row(identifier, config) for identifier, config in configs.items())
    first = next(iter(configs), "<folder>")
    return f"""---
library_name: saelens
tags: [sparse-autoencoder, saelens, polytok]
---

# Sparse autoencoders of {_cell(", ".join(models))}

| folder | architecture | d_in | latents | L0 | dead | tokenization | context | BOS | left out | activations | passes |
|---|---|---:|---:|---:|---:|---|---:|---|---|---:|---:|
{rows}

Each folder opens in [SAELens](https://github.com/decoderesearch/SAELens):

```python
from sae_lens import SAE

sae = SAE.from_pretrained({json.dumps(repository)}, {json.dumps(first)})
```

L0 and dead latents are measured on these exported autoencoders, over `sparsity_samples` activations (`metadata` in
`cfg.json`), held-out ones if there are any (`sparsity_source`). BOS is whether every
sequence begins with that token. Another token that every sequence begins with is given in brackets
(`begin_batch_token`): `ActivationsStore.from_sae` does not put it there, so give it a data set that was tokenized with
it. Tokens and positions that are left out were not trained on. So many distinct
activations were trained on in so many passes: above 1 each was seen more than once. Activations go in as the model
gives them, whatever normalisation they were trained with. Trained by Polytok.
"""


def _row(identifier: str, config: Mapping[str, Any]) -> str:
    trained = _metadata(config, "training_architecture") or config["architecture"]
    shown = (
        config["architecture"] if trained == config["architecture"] else f"{config['architecture']} (from {trained})"
    )
    l0, dead = _metadata(config, "l0"), _metadata(config, "num_dead_features")
    available, passes = _metadata(config, "available_samples"), _metadata(config, "passes")
    cells = [
        f"`{identifier}`",
        shown,
        config["d_in"],
        config["d_sae"],
        "" if l0 is None else f"{float(l0):.1f}",
        "" if dead is None else dead,
        _metadata(config, "tokenization") or "",
        _metadata(config, "context_size"),
        _beginning(config),
        _left_out(config),
        "" if available is None else f"{available:,}",
        "" if passes is None else f"{passes:.3g}",
    ]
    return f"| {' | '.join(_cell(str(cell)) for cell in cells)} |"


def _beginning(config: Mapping[str, Any]) -> str:
    """Whether sequences begin with BOS, and the other token that they begin with."""
    token = _metadata(config, "begin_batch_token")
    said = {True: "yes", False: "no"}.get(_metadata(config, "prepend_bos"), "unknown")
    return f"{said} ({str(token).upper()})" if token not in {None, "bos"} else said


def _left_out(config: Mapping[str, Any]) -> str:
    """Return the excluded token ids and positions, shortened if there are many."""
    found = []
    for what, name in (("tokens", "exclude_special_tokens"), ("positions", "excluded_positions")):
        numbers = _metadata(config, name) or []
        if numbers:
            shown = ", ".join(map(str, numbers[:_MOST_SHOWN]))
            found.append(f"{what} {shown}{f' and {len(numbers) - _MOST_SHOWN} more' if numbers[_MOST_SHOWN:] else ''}")
    return "; ".join(found)


def _metadata(config: Mapping[str, Any], name: str) -> Any:
    return config.get("metadata", {}).get(name)


def _cell(text: str) -> str:
    """Escape a text for one cell of a Markdown table."""
    return text.replace("|", r"\|").replace("<", "&lt;").replace("\n", " ")


def _invalid(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(description, violations=[errors.FieldViolation(field, description)])
