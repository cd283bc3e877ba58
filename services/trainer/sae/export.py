"""Export autoencoders in SAELens's format: `cfg.json`, `sae_weights.safetensors` and `sparsity.safetensors`.

SAELens's own conversion decides the inference architecture: batchtopk and matryoshka_batchtopk become jumprelu with
their learned threshold, topk gets decoder rows of length 1. The normalisation of activations is folded into the
weights first, so that the exported autoencoder takes the model's own activations.
"""

import copy
import dataclasses
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Self

import torch

from polytok import errors
from services.activations import hook_names
from services.activations.token_selection import EVERY_TOKEN, TokenSelection
from services.trainer.sae import architectures, normalization, tensor_file

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
SPARSITY = "sparsity.safetensors"
FILES = (CONFIG, WEIGHTS, SPARSITY)
"""Files of an exported folder, which holds nothing else."""

_EPSILON = 1e-10
"""Added to firing frequencies before their logarithm, as in sae-lens."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """The provenance of an autoencoder: fields of SAELens's metadata, by its names, and additional ones of Polytok."""

    model_name: str
    """Repository or path that the model is loaded from."""
    hook_name: str
    """Hook name of TransformerLens, or the path of a module."""
    context_size: int
    """Maximum number of tokens of a sequence that the model saw."""
    prepend_bos: bool | None
    """Whether every sequence begins with the tokenizer's begin-of-sequence token; None if unknown."""
    model_revision: str = ""
    model_dtype: str = "float32"
    """Number format that the model ran in."""
    selection: TokenSelection = EVERY_TOKEN
    """Which tokens' activations it was trained on."""
    further: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Additional metadata, JSON values by name: model revision, tokenization, code version."""

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Read the output of `dataclasses.asdict`, also after JSON."""
        return cls(**{**fields, "selection": TokenSelection.from_dict(fields["selection"])})

    def metadata(self) -> dict[str, Any]:
        """Return the metadata; an additional field does not replace one of SAELens's."""
        own = {
            "model_name": self.model_name,
            "hook_name": self.hook_name,
            "hook_head_index": None,
            "context_size": self.context_size,
            "prepend_bos": self.prepend_bos,
            # Sequences are rows of a tokenization, which SAELens's `load_dataset` cannot open by name.
            "dataset_path": None,
        }
        return dict(self.further) | own | self._model() | _positions(self.selection, self.context_size)

    def _model(self) -> dict[str, Any]:
        """Return how SAELens loads the model so that it has the hook and computes the same activations."""
        if hook_names.is_path(self.hook_name):
            # By default transformers uses the number format of the files.
            options, loader = {"dtype": self.model_dtype}, "AutoModelForCausalLM"
        else:
            options = {} if self.model_dtype == "float32" else {"dtype": self.model_dtype}
            loader = "HookedTransformer"
        options |= {"revision": self.model_revision} if self.model_revision else {}
        return {"model_class_name": loader, "model_from_pretrained_kwargs": options}


def _positions(selection: TokenSelection, context_size: int) -> dict[str, Any]:
    """Return the excluded positions in SAELens's terms; its slice of a sequence cannot express every choice."""
    ids, places = selection.excluded_token_ids, selection.excluded_positions
    found: dict[str, Any] = {
        "exclude_special_tokens": list(ids) or False,
        "seqpos_slice": _slice(sorted(set(range(context_size)) - set(places)), context_size),
    }
    return found | ({"excluded_positions": list(places)} if places else {})


def _slice(kept: Sequence[int], length: int) -> list[int | None] | None:
    """Return the slice of `range(length)` with these places, or None if there is none."""
    if len(kept) == length:
        return [None]
    if not kept:
        return None
    step = kept[1] - kept[0] if len(kept) > 1 else 1
    for bounds in ((kept[0], None), (kept[0], kept[-1] + 1)):
        for found in (bounds, (*bounds, step)):
            if list(range(length)[slice(*found)]) == list(kept):
                return list(found)
    return None


class Firing(NamedTuple):
    """How often the latents of the exported autoencoder fire."""

    counts: torch.Tensor
    """Shape (d_sae,)."""
    samples: int
    """Number of vectors that firings were counted over, at least one."""
    source: Literal["held out", "trained on"]
    """Which activations these are: held-out ones, or, if none are held out, some of those that it was trained on."""


class Converted(NamedTuple):
    """An autoencoder ready for inference."""

    config: dict[str, Any]
    """As in `cfg.json`."""
    weights: dict[str, torch.Tensor]
    """Contiguous, on the processor."""


@torch.no_grad()
def convert(sae: Any, scaling: normalization.Normalization, metadata: Mapping[str, Any] | None = None) -> Converted:
    """Fold the normalisation into a copy of a trained autoencoder (a SAELens training class) and convert it."""
    folded = _copy(sae, metadata or {})
    if scaling.whitening is not None:
        whitening = scaling.whitening
        folded.fold_activation_whitening(whitening.mean.cpu(), whitening.matrix.cpu(), whitening.inverse.cpu())
    elif scaling.kind != "none":
        folded.fold_activation_norm_scaling_factor(scaling.scale)
    weights = folded.state_dict()
    folded.process_state_dict_for_saving_inference(weights)
    config = folded.cfg.get_inference_sae_cfg_dict()
    # The configuration as trained: folding changed that of the copy.
    config["metadata"]["training_architecture_details"] = sae.cfg.get_training_architecture_details()
    if scaling.kind != "none":
        config["metadata"]["activation_normalization"] = scaling.to_dict()
    return Converted(config, {name: tensor.contiguous() for name, tensor in weights.items()})


def inference(sae: Any, scaling: normalization.Normalization) -> Any:
    """Return the `sae_lens.SAE` that an export of this autoencoder opens as, without writing it to disk."""
    converted = convert(sae, scaling)
    inference_class, config_class = architectures.import_sae_lens().registry.get_sae_class(
        converted.config["architecture"]
    )
    config = config_class.from_dict(converted.config | {"device": "meta"})
    opened = inference_class(config)
    opened.cfg.device = "cpu"
    opened.load_state_dict(converted.weights, assign=True)
    return opened.to(dtype=sae.dtype, device=str(sae.W_dec.device))


def write(
    sae: Any, scaling: normalization.Normalization, origin: Origin, firing: Firing, folder: pathlib.Path
) -> dict[str, str]:
    """Write and sync the three files to a folder, which is created if missing.

    Returns the sha256 of each file by its name, of the bytes in memory. Raises `errors.FailedPrecondition` for weights
    that are not finite, `errors.ResourceExhausted` for a full disk.
    """
    frequencies = firing.counts.double().cpu() / firing.samples
    metadata = origin.metadata() | {
        "l0": float(frequencies.sum()),
        "num_dead_features": int((firing.counts == 0).sum()),
        "sparsity_samples": firing.samples,
        "sparsity_source": firing.source,
    }
    converted = convert(sae, scaling, metadata)
    for name, tensor in converted.weights.items():
        if not bool(tensor.isfinite().all()):
            raise errors.FailedPrecondition(
                f"{folder.name}: {name} holds values that are not finite, so it is not exported. Export an "
                "earlier checkpoint, or train again with a lower learning rate."
            )
    sparsity = torch.log10(frequencies + _EPSILON).float()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = json.dumps(converted.config, indent=2, allow_nan=False, sort_keys=True) + "\n"
        return {
            CONFIG: _synced(folder / CONFIG, config.encode()),
            WEIGHTS: tensor_file.write(folder / WEIGHTS, converted.weights).sha256,
            SPARSITY: tensor_file.write(folder / SPARSITY, {"sparsity": sparsity}).sha256,
        }
    except OSError as error:
        raise errors.ResourceExhausted(
            f"{folder}: the autoencoder cannot be written ({error.strerror}). Free disk space or fix the "
            "permissions of the folder, then resume the training: its last checkpoint is unchanged."
        ) from error


def _copy(sae: Any, metadata: Mapping[str, Any]) -> Any:
    """Return a training autoencoder with the same weights on the processor, whose parameters may be changed."""
    config = copy.deepcopy(sae.cfg)
    config.device = "meta"
    for name, value in metadata.items():
        config.metadata[name] = value
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="WARNING: You have only set one matryoshka level")
        # This warning is meant for users who open the export.
        warnings.filterwarnings("ignore", message=r"\s*This SAE has non-empty model_from_pretrained_kwargs")
        made = type(sae)(config)
    weights = {name: tensor.detach().cpu().clone() for name, tensor in sae.state_dict().items()}
    made.load_state_dict(weights, assign=True)
    return made.to(device="cpu")


def _synced(path: pathlib.Path, content: bytes) -> str:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return hashlib.sha256(content).hexdigest()
