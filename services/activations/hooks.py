"""Names of hooks, and which module of a model each means."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from polytok import errors
from services.activations.families import Side
from services.activations.models import Description

_IN_BLOCK = re.compile(r"blocks\.(\d{1,6})\.(\S+)")
_EMBEDDING = "hook_embed"


class Hook(NamedTuple):
    """A place in a model whose values are wanted."""

    name: str
    """As it was asked for."""
    path: str
    """The module, by its path in the model with its head."""
    side: Side
    layer: int | None
    """The block, counted from 0; None outside of them."""
    width: int
    """Numbers per token; 0 for a module that was named by its path, as only running it tells."""


def parse(names: Sequence[str], description: Description) -> tuple[Hook, ...]:
    """Finds the hooks of a model; needs no weights. Raises InvalidArgument with all names that mean nothing in it.

    A name is `hook_embed`, TransformerLens's for a block (`blocks.3.hook_resid_post`), or the path of any module of the
    transformers model (`transformer.h.3.attn`, say), whose output is taken.
    """
    if not names:
        raise _refused(["Name at least one hook, as blocks.0.hook_resid_post."], names)
    skeleton = _Skeleton(description)
    found, wrong = [], []
    for name in dict.fromkeys(names):
        result = _parse(name, description, skeleton)
        if isinstance(result, Hook):
            found.append(result)
        else:
            wrong.append(result)
    if wrong:
        raise _refused(wrong, names)
    return tuple(found)


def _parse(name: str, description: Description, skeleton: "_Skeleton") -> Hook | str:
    """The hook, or what is wrong with the name."""
    if name == _EMBEDDING:
        path = skeleton.below_head(description.family.embedding)
        return Hook(name, path, "output", None, description.d_model)
    match = _IN_BLOCK.fullmatch(name)
    if match is None:
        return skeleton.module(name)
    layer, rest = int(match[1]), match[2]
    if layer >= description.n_layers:
        last = description.n_layers - 1
        return f"{name}: there is no layer {layer}; the {description.kind} model has layers 0 to {last}."
    point = description.family.points.get(rest)
    if point is None:
        known = ", ".join(sorted(description.family.points))
        return f"{name}: a {description.kind} model's blocks have no {rest!r}; they have {known}."
    path = f"{skeleton.below_head(description.family.blocks)}.{layer}"
    width = {"attn.hook_z": description.d_heads, "mlp.hook_post": description.d_mlp}.get(rest, description.d_model)
    return Hook(name, f"{path}.{point.path}" if point.path else path, point.side, layer, width)


class _Skeleton:
    """The model's modules without their weights, made when a module's path has to be looked up."""

    def __init__(self, description: Description) -> None:
        self._description = description
        self._made: Any = None

    def _model(self) -> Any:
        if self._made is None:
            with torch.device("meta"):
                self._made = self._description.architecture(self._description.configuration)
        return self._made

    def below_head(self, path: str) -> str:
        """The path in the model with its head, of one in the model without."""
        return f"{self._description.architecture.base_model_prefix}.{path}"

    def module(self, name: str) -> Hook | str:
        """A module by its path."""
        paths = dict(self._model().named_modules())
        if not name or name not in paths:
            blocks = f"{self.below_head(self._description.family.blocks)}.0"
            return (
                f"{name}: neither a hook as blocks.0.hook_resid_post nor a module of the "
                f"{self._description.kind} model as {blocks}."
            )
        inside = re.match(re.escape(self.below_head(self._description.family.blocks)) + r"\.(\d+)(\.|$)", name)
        return Hook(name, name, "output", int(inside[1]) if inside else None, 0)


def _refused(wrong: Sequence[str], names: Sequence[str]) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        " ".join(wrong),
        reason="HOOK_NOT_FOUND",
        violations=[errors.FieldViolation("hook_names", each) for each in wrong],
        metadata={"hook_names": ",".join(names)[:1000]},
    )
