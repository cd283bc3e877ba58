"""Configurations as plain data: architectures and their coefficients, the optimiser, and the plan of one training.

Every field is validated when an object is created; the message names the field as a user wrote it. `to_dict` and
`from_dict` carry a plan through JSON unchanged, so that a checkpoint or a record holds the whole of it.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

from polytok import errors

Architecture = Literal["standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka_batchtopk"]
ARCHITECTURES: tuple[Architecture, ...] = ("standard", "gated", "topk", "batchtopk", "jumprelu", "matryoshka_batchtopk")
"""Architectures that sae-lens 6 has a training class for and Polytok trains. Its transcoders have none: they can be
opened, but not trained.
"""

TOPK_FAMILY: frozenset[str] = frozenset({"topk", "batchtopk", "matryoshka_batchtopk"})
"""Architectures that choose their active latents by rank and revive dead ones by an auxiliary loss."""

Normalization = Literal["none", "expected_average_only_in", "covariance_whitening"]
NORMALIZATIONS: tuple[Normalization, ...] = ("none", "expected_average_only_in", "covariance_whitening")
"""How activations are normalised before training; every way can be folded into the weights on export."""

SPARSITY_LOSSES = ("step", "tanh", "quadratic")
SCHEDULES = ("constant", "cosineannealing", "cosineannealingwarmrestarts")
SPREADS = ("data", "autoencoders")
"""What several processes share: every batch, or the autoencoders."""
DTYPES = ("float32", "float64", "bfloat16")

_LARGEST_SHARE = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class SaeConfig:
    """One sparse autoencoder. Names and defaults are those of SAELens, so that a paper's table can be copied.

    Fields of other architectures are ignored. `k` is the number of active latents: exactly per vector for topk, on
    average over a batch for batchtopk and matryoshka_batchtopk. Coefficients named `l1…` belong to standard and gated,
    `l0…`, `jumprelu…`, `pre_act…` and `target_l0` to jumprelu, `matryoshka…` to matryoshka.
    """

    architecture: Architecture
    d_in: int
    """Width of the hook's activations."""
    d_sae: int
    """Number of latents."""
    k: float = 100
    l1_coefficient: float = 1.0
    l1_warm_up_steps: int = 0
    lp_norm: float = 1.0
    l0_coefficient: float = 1.0
    l0_warm_up_steps: int = 0
    jumprelu_init_threshold: float = 0.01
    jumprelu_bandwidth: float = 0.05
    jumprelu_sparsity_loss_mode: str = "step"
    jumprelu_tanh_scale: float = 4.0
    jumprelu_ste_to_input: bool = False
    pre_act_loss_coefficient: float | None = None
    target_l0: float | None = None
    aux_loss_coefficient: float = 1.0
    rescale_acts_by_decoder_norm: bool = True
    topk_threshold_lr: float = 0.01
    matryoshka_widths: tuple[int, ...] = ()
    """Growing widths of the nested levels; the last is d_sae, and is added if missing."""
    use_matryoshka_aux_loss: bool = False
    decoder_init_norm: float | None = 0.1
    apply_b_dec_to_input: bool = True
    normalize_activations: Normalization = "none"
    dtype: str = "float32"
    seed: int = 0
    """Seeds the initial weights."""

    def __post_init__(self) -> None:
        """Complete the widths and validate the fields; raises `errors.InvalidArgument`."""
        widths = tuple(self.matryoshka_widths)
        if self.architecture == "matryoshka_batchtopk" and (not widths or widths[-1] < self.d_sae):
            widths += (self.d_sae,)
        object.__setattr__(self, "matryoshka_widths", widths)
        _one_of("sae.architecture", self.architecture, ARCHITECTURES)
        _one_of("sae.dtype", self.dtype, DTYPES)
        _one_of("sae.normalize_activations", self.normalize_activations, NORMALIZATIONS)
        _one_of("sae.jumprelu_sparsity_loss_mode", self.jumprelu_sparsity_loss_mode, SPARSITY_LOSSES)
        _at_least(self, "sae", 1, "d_in", "d_sae")
        _at_least(self, "sae", 0, "l1_warm_up_steps", "l0_warm_up_steps", "seed")
        _at_least(self, "sae", 0.0, "l1_coefficient", "l0_coefficient", "aux_loss_coefficient")
        _at_least(self, "sae", 0.0, "jumprelu_init_threshold", "pre_act_loss_coefficient")
        _above_zero(self, "sae", "lp_norm", "jumprelu_bandwidth", "jumprelu_tanh_scale", "decoder_init_norm")
        _above_zero(self, "sae", "target_l0", "topk_threshold_lr")
        self._check_architecture()

    def _check_architecture(self) -> None:
        if self.architecture in TOPK_FAMILY and not 1 <= self.k <= self.d_sae:
            raise _wrong("sae.k", f"is {self.k:g}; it must be between 1 and d_sae, {self.d_sae}")
        if self.architecture in TOPK_FAMILY and self.d_in < 2:
            raise _wrong("sae.d_in", "is 1; dead latents are revived by half as many others, so it must be at least 2")
        if self.architecture == "topk" and int(self.k) != self.k:
            raise _wrong("sae.k", f"is {self.k:g}; topk needs an integer, batchtopk accepts a fraction")
        if self.architecture == "matryoshka_batchtopk" and not _ascending(self.matryoshka_widths, self.d_sae):
            found = list(self.matryoshka_widths)
            raise _wrong(
                "sae.matryoshka_widths", (f"are {found}; they must increase, from at least 1 up to {self.d_sae}")
            )
        quadratic = self.architecture == "jumprelu" and self.jumprelu_sparsity_loss_mode == "quadratic"
        if quadratic and not 0 < (self.target_l0 or 0) <= self.d_sae:
            raise _wrong("sae.target_l0", ("is required and at most d_sae if jumprelu_sparsity_loss_mode is quadratic"))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self) | {"matryoshka_widths": list(self.matryoshka_widths)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read the output of `to_dict`; raises `errors.InvalidArgument` for an unknown field."""
        return cls(**_known(cls, "sae", fields))


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam and its learning rate schedule: linear warm-up, a main schedule, linear decay to zero."""

    lr: float = 3e-4
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    lr_scheduler_name: str = "constant"
    lr_warm_up_steps: int = 0
    lr_decay_steps: int = 0
    lr_end: float | None = None
    """Final learning rate of cosine schedules, where their decay begins; a tenth of lr by default."""
    n_restart_cycles: int = 1
    gradient_clip: float | None = 1.0
    """Maximum norm of all gradients together (SAELens: always 1); None disables clipping."""

    def __post_init__(self) -> None:
        """Validate the fields; raises `errors.InvalidArgument`."""
        _one_of("optimizer.lr_scheduler_name", self.lr_scheduler_name, SCHEDULES)
        _above_zero(self, "optimizer", "lr", "gradient_clip")
        _at_least(self, "optimizer", 0, "lr_warm_up_steps", "lr_decay_steps", "lr_end")
        _at_least(self, "optimizer", 1, "n_restart_cycles")
        for name in ("adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise _wrong(f"optimizer.{name}", f"is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.lr_scheduler_name != "constant" and self.lr_decay_steps and self.lr_end == 0:
            raise _wrong(
                "optimizer.lr_decay_steps", ("would decay from 0 to 0; set an lr_end above 0, or disable the decay")
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read the output of `to_dict`; raises `errors.InvalidArgument` for an unknown field."""
        return cls(**_known(cls, "optimizer", fields))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedSae:
    """One autoencoder of a training: the hook of its activations, its configuration, and its optimiser."""

    name: str
    """Unique within the training; also the name of the folder that it is exported to."""
    hook: str
    """Hook name as in TransformerLens, `blocks.3.hook_resid_post`."""
    sae: SaeConfig
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        return {
            "name": self.name,
            "hook": self.hook,
            "sae": self.sae.to_dict(),
            "optimizer": self.optimizer.to_dict(),
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read the output of `to_dict`; raises `errors.InvalidArgument` for an unknown field."""
        known = _known(cls, "saes", fields)
        optimizer = OptimizerConfig.from_dict(known.pop("optimizer", {}))
        return cls(**known | {"sae": SaeConfig.from_dict(known["sae"]), "optimizer": optimizer})


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All autoencoders that one pass over the activations trains, and for how long.

    A sample is one activation vector: one token at one hook. Every autoencoder sees every batch of its hook.
    """

    saes: tuple[PlannedSae, ...]
    total_samples: int
    batch_size: int = 4096
    buffer_samples: int = 2**18
    """Number of vectors of each hook in the activation buffer."""
    seed: int = 0
    """Seeds the order of the data."""
    dead_feature_window: int = 1000
    """Steps without firing after which a latent counts as dead."""
    feature_sampling_window: int = 2000
    """Steps over which firing frequencies are counted before the counters are reset."""
    normalization_batches: int = 100
    """Batches that the scale of activations is estimated on, if an autoencoder needs it."""
    autocast: bool = False
    """Whether steps compute in bfloat16 where PyTorch's autocast does; weights and optimiser keep
    their number format.
    """
    compile: bool = False
    """Whether steps go through torch.compile; for live activations, the model is compiled by its source."""
    reference: bool = False
    """Whether to use SAELens's own forward pass and autograd even where there is a faster step with the same result."""
    device: str = "cpu"
    threads: int = 0
    """Processor threads; 0 leaves the number to PyTorch. On one processor, equal numbers give bit-identical results."""
    log_every: int = 50
    checkpoint_every: int = 1000
    evaluate_every: int = 0
    """Steps between evaluations on held-out sequences; 0 evaluates at the end only."""
    evaluation_sequences: int = 64
    processes: int = 1
    """Processes that train together, each on its own device."""
    spread: str = "data"

    def __post_init__(self) -> None:
        """Validate the plan; raises `errors.InvalidArgument`."""
        object.__setattr__(self, "saes", tuple(self.saes))
        if not self.saes:
            raise _wrong("saes", "is empty; specify at least one hook and configuration")
        names = [planned.name for planned in self.saes]
        for name in names:
            if names.count(name) > 1:
                raise _wrong("saes.name", f"{name!r} occurs twice; give every autoencoder a unique name")
        widths: dict[str, int] = {}
        for planned in self.saes:
            if widths.setdefault(planned.hook, planned.sae.d_in) != planned.sae.d_in:
                raise _wrong("sae.d_in", f"differs between autoencoders of the hook {planned.hook}")
        _at_least(self, "", 1, "batch_size", "dead_feature_window", "feature_sampling_window", "log_every")
        _at_least(self, "", 1, "normalization_batches", "checkpoint_every", "processes")
        _at_least(self, "", 0, "seed", "threads", "evaluate_every", "evaluation_sequences")
        _at_least(self, "", self.batch_size, "total_samples", "buffer_samples")
        _one_of("spread", self.spread, SPREADS)
        self._check_spread()

    def _check_spread(self) -> None:
        if self.spread == "data":
            for name in ("batch_size", "buffer_samples"):
                if getattr(self, name) % self.processes:
                    what = f"is {getattr(self, name)}, which cannot be divided evenly among {self.processes} processes"
                    raise _wrong(name, f"{what}; make it a multiple, or change processes")
        elif self.processes > len(self.saes):
            count = "is 1 autoencoder" if len(self.saes) == 1 else f"are {len(self.saes)} autoencoders"
            raise _wrong(
                "processes",
                f"is {self.processes}, but there {count}; every process needs one. Use fewer processes, or spread data",
            )

    @property
    def total_steps(self) -> int:
        """Number of optimiser steps: whole batches in `total_samples`."""
        return self.total_samples // self.batch_size

    @property
    def hooks(self) -> tuple[str, ...]:
        """The hooks whose activations are needed, without duplicates, in the order of the autoencoders."""
        return tuple(dict.fromkeys(planned.hook for planned in self.saes))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "saes"}
        return {"saes": [planned.to_dict() for planned in self.saes]} | own

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read the output of `to_dict`; raises `errors.InvalidArgument` for an unknown field."""
        known = _known(cls, "", fields)
        return cls(**known | {"saes": tuple(PlannedSae.from_dict(planned) for planned in known["saes"])})


def num_held_out(units: int, wanted: int) -> int:
    """Return how many sequences (or blocks) to hold out: the requested number, but at most a tenth of all."""
    return min(wanted, max(1, units // _LARGEST_SHARE))


def _wrong(field: str, description: str) -> errors.InvalidArgument:
    return errors.InvalidArgument(
        f"{field} {description}.", violations=[errors.FieldViolation(field, f"{description}.")]
    )


def _one_of(field: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise _wrong(field, f"is {value!r}; it must be one of {', '.join(allowed)}")


def _values(config: object, prefix: str, names: Sequence[str]) -> list[tuple[str, float]]:
    found = [(f"{prefix}.{name}".lstrip("."), getattr(config, name)) for name in names]
    given = [(field, value) for field, value in found if value is not None]
    for field, value in given:
        if not math.isfinite(value):
            raise _wrong(field, f"is {value}; it must be a finite number")
    return given


def _at_least(config: object, prefix: str, bound: float, *names: str) -> None:
    for field, value in _values(config, prefix, names):
        if value < bound:
            raise _wrong(field, f"is {value:g}; it must be at least {bound:g}")


def _above_zero(config: object, prefix: str, *names: str) -> None:
    for field, value in _values(config, prefix, names):
        if value <= 0:
            raise _wrong(field, f"is {value:g}; it must be above 0")


def _ascending(widths: Sequence[int], last: int) -> bool:
    return widths[0] >= 1 and widths[-1] == last and all(a < b for a, b in itertools.pairwise(widths))


def _known(cls: type, prefix: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(fields) - names):
        raise _wrong(f"{prefix}.{unknown[0]}".lstrip("."), f"does not exist; there are {', '.join(sorted(names))}")
    return dict(fields)
