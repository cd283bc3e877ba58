"""Run a model up to its last hooked module, and capture the values there."""

import contextlib
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from polytok import errors
from services.activations import compilation, forward_override, gelu
from services.activations.hooks import Hook
from services.activations.models import LoadedModel


class _AllCaptured(BaseException):
    """Raised when all hooks have their values and the rest of the model need not run.

    Not caught by `except Exception`.
    """


class ActivationCapture:
    """Holds a model's hooks during the block. Between runs the model may be used as if they were not there."""

    def __init__(self, model: LoadedModel, hooks: Sequence[Hook]) -> None:
        self._model = model
        self._hooks = {hook.name: hook for hook in hooks}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._running: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        self._seen: dict[str, Tensor] | None = None
        # A bidirectional model has no cache, and no option to turn it off.
        self._options = {} if model.description.masked else {"use_cache": False}
        base = model.module.base_model_prefix + "."
        # Only a hook on the head needs the head.
        self._runs = model.base if all(hook.path.startswith(base) for hook in hooks) else model.module

    def __enter__(self) -> "ActivationCapture":
        for hook in self._hooks.values():
            module = self._model.module.get_submodule(hook.path)
            if hook.side == "output":
                handle = module.register_forward_hook(self._taking_output(hook.name))
            else:
                handle = module.register_forward_pre_hook(self._taking_input(hook.name), with_kwargs=True)
            self._handles.append(handle)
        root = self._model.module
        if self._model.compiled:
            hooked = {root.get_submodule(hook.path) for hook in self._hooks.values()}
            blocks = self._model.base.get_submodule(self._model.description.family.blocks)
            self._running = compilation.CompiledModules(
                list(compilation.find_compilable_modules(blocks, hooked))
            ).running
        elif self._model.device.type == "cpu":
            quicker = gelu.find_chunked_forwards(root)
            self._running = lambda: forward_override.override_forwards(quicker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._running = [], contextlib.nullcontext

    def run(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """Run one forward pass: tokens [batch, length] to {name: [batch, length, width]}, on the model's device.

        `attention_mask` [batch, length] is 0 for tokens that must not be seen. Runs under torch.inference_mode.
        """
        seen = self._seen = {}
        try:
            with self._running(), contextlib.suppress(_AllCaptured), torch.inference_mode():
                self._runs(input_ids=input_ids, attention_mask=attention_mask, **self._options)
        finally:
            self._seen = None
        return {name: self._shaped(name, seen, input_ids.shape) for name in self._hooks}

    def _taking_input(self, name: str) -> Any:
        def take(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._keep(name, next(each for each in (*positional, *named.values()) if isinstance(each, Tensor)))

        return take

    def _taking_output(self, name: str) -> Any:
        def take(_: nn.Module, __: Any, output: Any) -> None:
            self._keep(name, output)

        return take

    def _keep(self, name: str, value: Any) -> None:
        if self._seen is None:
            # The model is being run for another purpose, between two of our batches.
            return
        while isinstance(value, (tuple, list)) and value:
            value = value[0]
        self._seen[name] = value
        if len(self._seen) == len(self._hooks):
            raise _AllCaptured

    def _shaped(self, name: str, seen: dict[str, Tensor], tokens: torch.Size) -> Tensor:
        value = seen.get(name)
        if isinstance(value, Tensor) and value.ndim >= 3 and value.shape[:2] == tokens:
            return value.flatten(2)
        if isinstance(value, Tensor) and value.ndim == 2 and value.shape[0] == tokens.numel():
            # Some models flatten batch and length within their blocks.
            return value.view(*tokens, -1)
        shape = list(value.shape) if isinstance(value, Tensor) else "none"
        raise errors.InvalidArgument(
            f"{name}: its module does not return one vector per token (shape {shape} for {list(tokens)} "
            "tokens). Choose another hook.",
            reason="HOOK_NOT_FOUND",
        )
