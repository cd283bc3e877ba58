"""Resolve hook names to modules of a model."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from polytok import errors
from services.activations import hook_names
from services.activations.architectures import Side
from services.activations.models import ModelDescription


class Hook(NamedTuple):
    """A place in a model whose values are captured."""

    name: str
    """The name as requested."""
    path: str
    """The module, by its path in the model with its head."""
    side: Side
    layer: int | None
    """The block, counted from 0; None outside of them."""
    width: int
    """Numbers per token; 0 for a module named by its path, whose width only a forward pass shows."""


def parse_hooks(names: Sequence[str], description: ModelDescription) -> tuple[Hook, ...]:
    """Return the hooks of a model; needs no weights. Raises InvalidArgument with all invalid names.

    `services.activations.hook_names` defines the valid names; `blocks.*.…` is not valid here.
    """
    if not names:
        raise _refused(["Specify at least one hook, such as blocks.0.hook_resid_post."], names)
    found, wrong = [], []
    known = describe_structure(description, with_modules=not all(_is_point(name) for name in names))
    for name in dict.fromkeys(names):
        if problem := hook_names.find_problem(name, known, patterns=False):
            wrong.append(problem)
        else:
            found.append(_hook(name, description, known))
    if wrong:
        raise _refused(wrong, names)
    return tuple(found)


def describe_structure(description: ModelDescription, *, with_modules: bool = True) -> hook_names.ModelStructure:
    """Return the structure that hook names are checked against.

    The model is built without its weights if its modules are requested.
    """
    family = description.family
    return hook_names.ModelStructure(
        kind=description.kind,
        n_layers=description.n_layers,
        blocks=_below_head(description, family.blocks),
        points=tuple(family.points),
        sparse=family.sparse,
        modules=_modules(description) if with_modules else frozenset(),
    )


def _is_point(name: str) -> bool:
    return name == hook_names.EMBEDDING or hook_names.IN_BLOCK.fullmatch(name) is not None


def _hook(name: str, description: ModelDescription, known: hook_names.ModelStructure) -> Hook:
    """Return the hook of a valid name."""
    if name == hook_names.EMBEDDING:
        return Hook(name, _below_head(description, description.family.embedding), "output", None, description.d_model)
    match = hook_names.IN_BLOCK.fullmatch(name)
    if match is None:
        inside = re.match(re.escape(known.blocks) + r"\.(\d+)(\.|$)", name)
        return Hook(name, name, "output", int(inside[1]) if inside else None, 0)
    layer, rest = int(match[1]), match[2]
    point = description.family.points[rest]
    path = f"{known.blocks}.{layer}"
    width = {"attn.hook_z": description.d_heads, hook_names.INNER: description.d_mlp}.get(rest, description.d_model)
    return Hook(name, f"{path}.{point.path}" if point.path else path, point.side, layer, width)


def _below_head(description: ModelDescription, path: str) -> str:
    """Return a path in the model with its head for one in the model without."""
    return f"{description.architecture.base_model_prefix}.{path}"


def _modules(description: ModelDescription) -> frozenset[str]:
    """Return the paths of all modules of a model without weights."""
    with torch.device("meta"):
        made: Any = description.architecture(description.configuration)
    return frozenset(name for name, _ in made.named_modules())


def _refused(wrong: Sequence[str], names: Sequence[str]) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        " ".join(wrong),
        reason="HOOK_NOT_FOUND",
        violations=[errors.FieldViolation("hook_names", each) for each in wrong],
        metadata={"hook_names": ",".join(names)[:1000]},
    )
