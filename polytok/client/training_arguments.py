"""Sparse autoencoders and training parameters as keyword arguments; the trainer fills in the defaults."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from google.protobuf.message import Message

from polytok import errors
from polytok.client import message_builder
from polytok.trainer.v1 import saes_pb2, trainings_pb2

Architecture = Literal["standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka_batchtopk"]


class Sae(TypedDict, total=False):
    """One sparse autoencoder. `hook` and `d_sae` are required; coefficients depend on the architecture."""

    hook: str
    """TransformerLens name, such as `blocks.3.hook_resid_post`."""
    architecture: Architecture
    """`topk` by default."""
    d_sae: int
    """Number of latents."""
    name: str
    """Unique within the training; by default derived from hook and architecture."""
    d_in: int
    """Width of the hook's activations; by default inferred."""
    k: float
    """topk, batchtopk, matryoshka_batchtopk: active latents per activation (on average); 100 by default."""
    aux_loss_coefficient: float
    rescale_acts_by_decoder_norm: bool
    topk_threshold_lr: float
    matryoshka_widths: Sequence[int]
    use_matryoshka_aux_loss: bool
    l1_coefficient: float
    """standard, gated: weight of the sparsity penalty; 1 by default."""
    l1_warm_up_steps: int
    lp_norm: float
    l0_coefficient: float
    """jumprelu: weight of the sparsity penalty; 1 by default."""
    l0_warm_up_steps: int
    jumprelu_init_threshold: float
    jumprelu_bandwidth: float
    jumprelu_sparsity_loss_mode: Literal["step", "tanh", "quadratic"]
    jumprelu_tanh_scale: float
    jumprelu_ste_to_input: bool
    pre_act_loss_coefficient: float
    target_l0: float
    normalize_activations: Literal["none", "expected_average_only_in", "covariance_whitening"]
    decoder_init_norm: float
    apply_b_dec_to_input: bool
    dtype: Literal["float32", "float64", "bfloat16"]
    seed: int
    lr: float
    """Learning rate; 0.0003 by default."""
    adam_beta1: float
    adam_beta2: float
    lr_scheduler_name: Literal["constant", "cosineannealing", "cosineannealingwarmrestarts"]
    lr_warm_up_steps: int
    lr_decay_steps: int
    lr_end: float
    n_restart_cycles: int
    gradient_clip: float


class Parameters(TypedDict, total=False):
    """Parameters of a training, all optional; a sample is the activation of one token."""

    total_samples: int
    """Total number of samples; by default every token of the source once."""
    batch_size: int
    """Samples per step; 4096 by default."""
    buffer_samples: int
    """Size of the activation buffer of each hook, in samples."""
    seed: int
    dead_feature_window: int
    feature_sampling_window: int
    normalization_batches: int
    autocast: bool
    compile: bool
    reference: bool
    log_every: int
    """Steps between rows of metrics."""
    checkpoint_every: int
    """Steps between checkpoints; 1000 by default."""
    evaluate_every: int
    evaluation_sequences: int
    processes: int
    """Number of processes, one GPU each; 1 by default."""
    spread: Literal["data", "autoencoders"]
    """How to divide the work among processes: by data (each batch) or by autoencoders."""


class Live(TypedDict, total=False):
    """How the model runs while autoencoders are trained on its activations."""

    context_size: int
    """Maximum tokens per sequence; by default sequences are not cut."""
    dtype: Literal["float32", "bfloat16", "float16"]
    batch_tokens: int
    exclude_special_tokens: bool
    """Whether to leave out the activations of special tokens."""


def to_message(sae: Sae | saes_pb2.Sae) -> saes_pb2.Sae:
    """Return the message of an autoencoder. Raises InvalidArgument for unknown fields and values."""
    if isinstance(sae, saes_pb2.Sae):
        return sae
    values: dict[str, Any] = {name: value for name, value in sae.items() if value is not None}
    message = saes_pb2.Sae()
    architecture = values.pop("architecture", "topk")
    if architecture not in Architecture.__args__:  # type: ignore[attr-defined]
        known = ", ".join(Architecture.__args__)  # type: ignore[attr-defined]
        raise errors.InvalidArgument(f"Unknown architecture {architecture!r}. Expected one of: {known}.")
    own = getattr(message, architecture)
    own.SetInParent()
    places: Sequence[Message] = (own, message, message.optimizer)
    for name, value in values.items():
        place = next((each for each in places if _has(each, name)), None)
        if place is None:
            known = ", ".join(field for each in places for field in _names(each))
            raise errors.InvalidArgument(
                f"Unknown field {name!r} of a {architecture} autoencoder. Expected one of: {known}."
            )
        _set(place, name, value)
    return message


def parameters(values: Mapping[str, Any]) -> trainings_pb2.TrainingParameters:
    """Return the message of a training's parameters."""
    message = trainings_pb2.TrainingParameters()
    _fill(message, values, "a training")
    return message


def live(dataset: str, model: str, variant: str, values: Mapping[str, Any]) -> trainings_pb2.LiveSource:
    """Return the message of a live source."""
    message = message_builder.build(trainings_pb2.LiveSource, dataset=dataset, model=model, variant=variant)
    _fill(message, values, "a live source")
    return message


def _fill(message: Message, values: Mapping[str, Any], what: str) -> None:
    for name, value in values.items():
        if not _has(message, name):
            raise errors.InvalidArgument(
                f"Unknown field {name!r} of {what}. Expected one of: {', '.join(_names(message))}."
            )
        if value is not None:
            _set(message, name, value)


def _names(message: Message) -> list[str]:
    return [field.name for field in message.DESCRIPTOR.fields if field.message_type is None]


def _has(message: Message, name: str) -> bool:
    return name in _names(message)


def _set(message: Message, name: str, value: Any) -> None:
    field = message.DESCRIPTOR.fields_by_name[name]
    try:
        if field.is_repeated:
            getattr(message, name)[:] = list(value)
        elif field.enum_type is not None:
            setattr(message, name, _number(field.enum_type, name, value))
        else:
            whole = isinstance(value, float) and value.is_integer() and message_builder.is_integer(field)
            setattr(message, name, int(value) if whole else value)
    except (TypeError, ValueError):
        raise message_builder.refusal(field, value) from None


def _number(enum: Any, name: str, value: object) -> int:
    prefix = enum.values[0].name.removesuffix("UNSPECIFIED")
    words = {each.name.removeprefix(prefix).lower(): each.number for each in enum.values if each.number}
    word = str(value).lower()
    if word not in words:
        raise errors.InvalidArgument(f"Unknown {name} {value!r}. Expected one of: {', '.join(words)}.")
    return int(words[word])
