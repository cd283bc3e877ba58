"""Models' parts run through torch.compile; where it would give up and go back to plain code, that is an error.

Parts are compiled one by one, so that hooks hang between compiled pieces; batch and length are symbols, so that one
piece serves all batches, and all blocks of one make. (torch.compile, `dynamic=True`; "regional compilation".)
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
"""Compiled versions of one function, for other kinds of layers, masks, and batches or lengths of one."""


def check_compiler(device: torch.device) -> None:
    """Raise FailedPrecondition where there is no compiler for what torch.compile writes for a device."""
    # Loads a good part of torch, which most extractions do without.
    from torch._inductor import cpp_builder, exc  # noqa: PLC0415

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise errors.FailedPrecondition(
            f"compile: torch.compile needs a C++ compiler, and this worker has none for {device.type}. Install "
            "g++ there (`apt-get install g++`; the environment variable CXX names another), or leave compile out.",
            reason="MODEL_INVALID",
        ) from error


def find_compilable_modules(root: nn.Module, hooked: Collection[nn.Module]) -> Iterator[nn.Module]:
    """Yield the largest modules below `root` with nothing hooked inside them; compiled code calls no hooks.

    A hook on a module itself hangs outside of what is compiled. What torch has as one kernel is left as it is.
    """
    for child in root.children():
        if any(module in hooked for module in child.modules() if module is not child):
            yield from find_compilable_modules(child, hooked)
        elif not type(child).__module__.startswith("torch.nn."):
            yield child


class CompiledModules:
    """Modules whose forward pass is compiled while `running`."""

    def __init__(self, modules: Collection[nn.Module]) -> None:
        self.forwards: dict[nn.Module, Any] = {
            module: torch.compile(module.forward, dynamic=True) for module in modules
        }
        self._versions = count_compiled_versions()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Yield what compiled modules run in.

        Raises FailedPrecondition for what cannot be compiled, or not once and for all.

        New versions are logged with their number.
        """
        settings = {"recompile_limit": _MOST_VERSIONS, "fail_on_recompile_limit_hit": True}
        try:
            with forward_override.override_forwards(self.forwards), torch._dynamo.config.patch(settings):  # noqa: SLF001
                yield
        except torch._dynamo.exc.FailOnRecompileLimitHit as error:  # noqa: SLF001
            raise errors.FailedPrecondition(
                f"compile: the model was compiled in {_MOST_VERSIONS} versions, and needs more of them: what changes "
                "between batches is no number that torch.compile can leave open. Leave compile out.",
                reason="MODEL_INVALID",
            ) from error
        except torch._dynamo.exc.TorchDynamoException as error:  # noqa: SLF001
            if memory.is_exhausted(error):
                raise
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise errors.FailedPrecondition(
                f"compile: torch.compile cannot take this model ({lines[0]}). Leave compile out.",
                reason="MODEL_INVALID",
            ) from error
        self._tell()

    def _tell(self) -> None:
        versions = count_compiled_versions()
        if versions != self._versions:
            self._versions = versions
            _log.info("compiled", modules=len(self.forwards), versions=versions)


def count_compiled_versions() -> int:
    """Pieces that torch.compile has made in this process."""
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])  # noqa: SLF001
