"""Names of hooks, checked against the structure of a model. Imports no torch, so that servers can use it.

A name is `hook_embed`, TransformerLens's name in a block (`blocks.3.hook_resid_post`), or the path of any module of
the transformers model (`transformer.h.3.attn`), whose output is captured.
"""

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

EMBEDDING = "hook_embed"
IN_BLOCK = re.compile(r"blocks\.(\d{1,6})\.(\S+)")
"""A hook in a block: its number, and its name in the block."""
INNER = "mlp.hook_post"
"""The MLP's inner layer, which a mixture of experts does not have."""
EVERY_LAYER = "blocks.*."
"""Prefix of a name that stands for one hook in each layer."""
COMMON = frozenset({"hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post", "attn.hook_z"})
"""Hooks that the blocks of every model have."""
_MOST_CANDIDATES = 4000
_CLOSE = 0.6


@dataclass(frozen=True)
class ModelStructure:
    """The structure of a model, as far as hook names need it."""

    kind: str
    """The `model_type` of its configuration."""
    n_layers: int
    blocks: str
    """Path of the list of blocks in the model with its head, such as `transformer.h`."""
    points: Collection[str]
    """Names of hooks in a block, without `blocks.{i}.`."""
    sparse: Collection[int]
    """Blocks whose MLP is a mixture of experts."""
    modules: Collection[str]
    """Paths of all modules."""


def is_path(name: str) -> bool:
    """Return whether a name is the path of a module, not one of TransformerLens's names."""
    return name != EMBEDDING and IN_BLOCK.fullmatch(name) is None


def find_problem(name: str, structure: ModelStructure, *, patterns: bool = True) -> str:
    """Return what is wrong with a name, with similar and existing names for the message, or an empty string.

    With `patterns`, `blocks.*.…` is allowed, and valid if every layer has it.
    """
    if patterns and name.startswith(EVERY_LAYER):
        rest = name.removeprefix(EVERY_LAYER)
        found = (_wrong_in_block(name, layer, rest, structure) for layer in range(structure.n_layers))
        return next((each for each in found if each), "")
    match = IN_BLOCK.fullmatch(name)
    if match is not None:
        return _wrong_in_block(name, int(match[1]), match[2], structure)
    if name == EMBEDDING or (name and name in structure.modules):
        return ""
    return _wrong_path(name, structure)


def is_common(name: str, n_layers: int) -> bool:
    """Return whether every model with this number of layers has such a hook; False if the number is 0 (unknown)."""
    match = IN_BLOCK.fullmatch(name)
    if match is not None:
        return int(match[1]) < n_layers and match[2] in COMMON
    every = n_layers > 0 and name.startswith(EVERY_LAYER)
    return name == EMBEDDING or (every and name.removeprefix(EVERY_LAYER) in COMMON)


def find_problems(names: Sequence[str], structure: ModelStructure) -> list[tuple[int, str]]:
    """Return the indices of invalid names, each with what is wrong with it."""
    problems = ((place, find_problem(name, structure)) for place, name in enumerate(names))
    return [(place, message) for place, message in problems if message]


def suggest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """Return a sentence with similar names, `prefix` before each; empty if there is none."""
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=_CLOSE)
    return f" Did you mean {' or '.join(prefix + each for each in close)}?" if close else ""


def _wrong_in_block(name: str, layer: int, rest: str, structure: ModelStructure) -> str:
    if layer >= structure.n_layers:
        return _no_layer(name, layer, structure)
    if rest not in structure.points:
        known = ", ".join(sorted(structure.points))
        close = suggest(rest, sorted(structure.points), name.removesuffix(rest))
        return f"{name}: the blocks of a {structure.kind} model have no {rest!r}; they have {known}.{close}"
    if rest == INNER and layer in structure.sparse:
        return (
            f"{name}: the MLP of block {layer} is a mixture of experts. A token passes through only some of "
            f"them, so there is no single inner vector; use blocks.{layer}.hook_mlp_out, the sum of the "
            "experts."
        )
    return ""


def _wrong_path(name: str, structure: ModelStructure) -> str:
    inside = re.match(re.escape(structure.blocks) + r"\.(\d{1,6})(\.|$)", name)
    if inside is not None and int(inside[1]) >= structure.n_layers:
        return _no_layer(name, int(inside[1]), structure)
    number = inside[1] if inside is not None else "0"
    # One block's modules represent all others': they have the same names.
    within = [each for each in sorted(structure.modules) if not _is_in_another_block(each, number, structure)]
    hooks = [EMBEDDING, *(f"blocks.{number}.{point}" for point in structure.points)]
    return (
        f"{name}: neither a hook name like blocks.0.hook_resid_post nor a module of the {structure.kind} "
        f"model like {structure.blocks}.0.{suggest(name, [*hooks, *within[:_MOST_CANDIDATES]])}"
    )


def _is_in_another_block(path: str, number: str, structure: ModelStructure) -> bool:
    prefix = f"{structure.blocks}."
    return path.startswith(prefix) and path.removeprefix(prefix).partition(".")[0] != number


def _no_layer(name: str, layer: int, structure: ModelStructure) -> str:
    return f"{name}: there is no layer {layer}; the {structure.kind} model has layers 0 to {structure.n_layers - 1}."
