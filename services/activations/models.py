"""Language models in a local directory: described, and loaded for reading their activations."""

import itertools
import json
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError

from polytok import errors
from services.activations import architectures, compilation, memory, weights
from services.runtime import malloc_tuning

Attention = Literal["sdpa", "eager"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The number formats that models run in."""


@dataclass(frozen=True)
class ModelDescription:
    """What is known of a model without its weights."""

    kind: str
    """The `model_type` of its configuration: `gpt2`, `llama`, …"""
    n_layers: int
    d_model: int
    d_mlp: int
    """Width of the MLP's inner layer."""
    d_heads: int
    """Width of all attention heads together: that of `attn.hook_z`."""
    embedding_rows: int
    """Number of token ids that it knows."""
    context_length: int
    """Maximum number of tokens; 0 if unlimited."""
    num_parameters: int
    weight_bytes: int
    """As stored."""
    family: architectures.ModelFamily = field(repr=False)
    configuration: Any = field(repr=False)
    """The transformers configuration."""

    @property
    def masked(self) -> bool:
        """Whether it is a masked language model instead of a causal one."""
        return self.family.masked

    @property
    def architecture(self) -> Any:
        """The transformers class of the model with its language-modelling head."""
        auto = transformers.AutoModelForMaskedLM if self.masked else transformers.AutoModelForCausalLM
        return auto._model_mapping[type(self.configuration)]  # noqa: SLF001  there is no public way


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model."""

    description: ModelDescription
    module: Any
    """The transformers model, with its language-modelling head, in evaluation mode."""
    dtype: torch.dtype
    device: torch.device
    has_head: bool
    """Whether the weights of the head exist: without them logits mean nothing."""
    compiled: bool = False
    """Whether blocks run through torch.compile."""

    @property
    def base(self) -> Any:
        """The model without its head."""
        return self.module.base_model


def describe(folder: pathlib.Path) -> ModelDescription:
    """Read config.json and the weights' headers; raises FailedPrecondition for what cannot be loaded."""
    return _described(folder, _configuration(folder), weights.read_weights(folder))


def outline(folder: pathlib.Path) -> ModelDescription:
    """Like `describe`, from config.json alone: the weights are not looked at."""
    return _described(folder, _configuration(folder), weights.Weights(0, 0))


def _described(folder: pathlib.Path, configuration: Any, found: weights.Weights) -> ModelDescription:
    # Multimodal models keep the configuration of the language model in a section of its own.
    text = getattr(configuration, "text_config", configuration)
    heads, d_model = text.num_attention_heads, text.hidden_size
    for name in ("num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size"):
        if not getattr(text, name) > 0:
            raise weights.invalid_model_error(
                f"{folder / 'config.json'}: {name} is {getattr(text, name)}. Copy the file there again."
            )
    # The values of DeepSeek's heads have a width of their own.
    head = getattr(text, "v_head_dim", None) or getattr(text, "head_dim", None) or d_model // heads
    return ModelDescription(
        kind=configuration.model_type,
        n_layers=text.num_hidden_layers,
        d_model=d_model,
        d_mlp=_inner(text.to_dict()) or 4 * d_model,
        d_heads=heads * head,
        embedding_rows=text.vocab_size,
        context_length=_context(text),
        num_parameters=found.num_parameters,
        weight_bytes=found.num_bytes,
        family=architectures.find_family(configuration),
        configuration=configuration,
    )


def load(
    folder: pathlib.Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    attention: Attention = "sdpa",
    compile: bool = False,  # noqa: A002  as torch calls it
    available: int | None = None,
    check: Callable[[], object] | None = None,
) -> LoadedModel:
    """Load a model from `safetensors` files; downloads nothing and runs no code from the model's repository.

    `attention` is its implementation: torch's fused kernels, or step by step for models that the kernels do not
    support. `available` is how many bytes it may take, by default what the device has left. `check` is called once it
    is known to fit and again once all is read, and raises if the files are not the right ones. Raises InvalidArgument
    for a wrong dtype or device, FailedPrecondition for a directory that cannot be loaded, ResourceExhausted if it does
    not fit.
    """
    description = describe(folder)
    kind, place = _dtype(dtype), _device(device)
    _check_fits(folder, description, kind, place, available)
    if compile:
        compilation.check_compiler(place)
    if check is not None:
        check()
        # As the checked files are.
        description = describe(folder)
    if not description.architecture._supports_sdpa:  # noqa: SLF001  as transformers asks
        attention = "eager"
    # Otherwise loading shows a progress bar on standard error.
    transformers.utils.logging.disable_progress_bar()
    try:
        module, info = description.architecture.from_pretrained(
            folder,
            config=description.configuration,
            dtype=kind,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        if memory.is_exhausted(error):
            raise
        raise weights.invalid_model_error(f"{folder} cannot be loaded: {error}") from error
    missing = set(info["missing_keys"])
    prefix = module.base_model_prefix + "."
    absent = sorted(key for key in missing if key.startswith(prefix))
    if absent:
        raise weights.invalid_model_error(
            f"{folder} lacks weights that a {description.kind} model has, such as {absent[0]!r} "
            f"({len(absent)} in all). Copy all of the model's files there."
        )
    module = module.to(place).eval().requires_grad_(False)
    _unmap(module)
    if check is not None:
        check()
    return LoadedModel(description, module, kind, place, has_head=not missing, compiled=compile)


def _unmap(module: Any) -> None:
    """Copy tensors on the CPU: as loaded they are memory-mapped, and change with files that are written in place."""
    for tensor in itertools.chain(module.parameters(), module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone(memory_format=torch.preserve_format)


def _configuration(folder: pathlib.Path) -> Any:
    path = weights.find_config(folder)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        kind = content.get("model_type") if isinstance(content, dict) else None
    except (OSError, ValueError) as error:
        raise weights.invalid_model_error(f"{path} cannot be read as JSON ({error}). Copy it there again.") from error
    if kind not in architectures.NAMES:
        raise weights.invalid_model_error(
            f"{path}: models of type {kind!r} are not supported. Supported types: {', '.join(architectures.NAMES)}."
        )
    try:
        return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise weights.invalid_model_error(
            f"{path} is not a valid configuration of a {kind} model ({error}). Copy it there again."
        ) from error


def _inner(config: dict[str, Any]) -> int:
    # Names of the MLP's width in different architectures.
    names = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim")
    return next((config[name] for name in names if isinstance(config.get(name), int)), 0)


def _context(configuration: Any) -> int:
    length = getattr(configuration, "max_position_embeddings", 0) or 0
    if configuration.model_type in {"roberta", "xlm-roberta"}:
        # Positions count from after the padding token's.
        length -= configuration.pad_token_id + 1
    return length


def _dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise errors.InvalidArgument(
            f"Unknown dtype {name!r}. Expected one of: {', '.join(DTYPES)}.",
            violations=[errors.FieldViolation("dtype", f"must be one of {', '.join(DTYPES)}")],
        )
    return DTYPES[name]


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _wrong_device(f"{name!r} is not a device; use cpu, cuda or cuda:0, cuda:1, ….") from error
    if device.type not in {"cpu", "cuda"}:
        raise _wrong_device(f"models do not run on {device.type!r}; use cpu, cuda or cuda:0, ….")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise _wrong_device(
            f"{name!r} is not on this machine, where PyTorch finds {torch.cuda.device_count()} GPUs. "
            "Use cpu, or install a PyTorch that fits the driver."
        )
    return device


def _wrong_device(why: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(f"device: {why}", violations=[errors.FieldViolation("device", why)])


def _check_fits(
    folder: pathlib.Path, description: ModelDescription, dtype: torch.dtype, device: torch.device, available: int | None
) -> None:
    needed = description.num_parameters * dtype.itemsize
    # Memory of a previous model that this process may still hold.
    malloc_tuning.trim()
    left = memory.available_bytes(device) if available is None else available
    if needed <= left:
        return
    smaller = " Load it as bfloat16, which takes half," if dtype == torch.float32 else " Use a smaller model,"
    raise errors.ResourceExhausted(
        f"{folder} does not fit: its {description.num_parameters:,} parameters take {memory.format_bytes(needed)} as "
        f"{str(dtype).removeprefix('torch.')}, and {device} has {memory.format_bytes(left)} left."
        f"{smaller} or a worker with more memory.",
        reason="MODEL_INVALID",
        metadata={"needed_bytes": str(needed), "available_bytes": str(left)},
    )
