"""Compile a model's parts with torch.compile; falling back to uncompiled code is an error.

Parts are compiled one by one, so that hooks lie between compiled pieces. Batch and length are symbolic, so that one
piece serves all batches, and all blocks of one kind share it. (torch.compile, `dynamic=True`; "regional compilation".)
"""

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from polytok import errors
from services.activations import forward_override, memory
from services.runtime.telemetry import logging

_log = logging.get(__name__)
_MOST_VERSIONS = 64
"""Maximum number of compiled versions of one function, for other kinds of layers, masks, and
batches or lengths of 1.
"""


def check_compiler(device: torch.device) -> None:
    """Raise FailedPrecondition if there is no compiler for the code that torch.compile generates for a device."""
    # Loads a large part of torch, which most extractions do not need.
    from torch._inductor import cpp_builder, exc  # noqa: PLC0415

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise errors.FailedPrecondition(
            f"compile: torch.compile needs a C++ compiler, and this worker has none for {device.type}. "
            "Install g++ there (`apt-get install g++`), set the environment variable CXX to another "
            "compiler, or turn compile off.",
            reason="MODEL_INVALID",
        ) from error


def find_compilable_modules(root: nn.Module, hooked: Collection[nn.Module]) -> Iterator[nn.Module]:
    """Yield the largest modules below `root` without inner hooks; compiled code calls no hooks.

    A hook on a module itself is outside of the compiled code. Modules that are a single kernel in torch are not
    compiled.
    """
    for child in root.children():
        if any(module in hooked for module in child.modules() if module is not child):
            yield from find_compilable_modules(child, hooked)
        elif not type(child).__module__.startswith("torch.nn."):
            yield child


class CompiledModules:
    """Modules whose forward pass is compiled within `running`."""

    def __init__(self, modules: Collection[nn.Module]) -> None:
        self.forwards: dict[nn.Module, Any] = {
            module: torch.compile(module.forward, dynamic=True) for module in modules
        }
        self._versions = count_compiled_versions()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run compiled modules within the block.

        Raises FailedPrecondition for what cannot be compiled, or would be compiled again and again.

        New versions are logged with their number.
        """
        settings = {"recompile_limit": _MOST_VERSIONS, "fail_on_recompile_limit_hit": True}
        try:
            with forward_override.override_forwards(self.forwards), torch._dynamo.config.patch(settings):  # noqa: SLF001
                yield
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:  # noqa: SLF001
            raise errors.FailedPrecondition(
                f"compile: the model was compiled in {_MOST_VERSIONS} versions and needs more: what changes "
                "between batches is not a number that torch.compile can treat as dynamic. Turn compile off.",
                reason="MODEL_INVALID",
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001
            if memory.is_exhausted(error):
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise errors.FailedPrecondition(
                f"compile: torch.compile does not support this model ({lines[0]}). Turn compile off.",
                reason="MODEL_INVALID",
            ) from error
        self._tell()

    def _tell(self) -> None:
        versions = count_compiled_versions()
        if versions != self._versions:
            self._versions = versions
            _log.info("compiled", modules=len(self.forwards), versions=versions)


def count_compiled_versions() -> int:
    """Return the number of pieces that torch.compile has compiled in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])  # noqa: SLF001
