"""The loss of a model with an autoencoder spliced in at a hook: cross-entropy and KL divergence.

The hook's module runs as usual, and its input or output is replaced at the positions that the autoencoder is for and
nowhere else: padding and excluded tokens pass unchanged, under ablation too. (SAELens leaves excluded tokens alone
when it splices, and ablates every position; without excluded tokens the two agree.)
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from polytok import errors
from services.activations import finiteness
from services.activations.hooks import Hook
from services.activations.models import LoadedModel
from services.trainer.sae.data.dataset import TokenSequences
from services.trainer.sae.evaluation.ratios import STANDARD_ERRORS, Figures, Mean, undefined

FORMULAS = {
    "cross_entropy_chance": "ln of the number of tokens that the model knows: the cross-entropy of a uniform guess",
    "cross_entropy_recovered": "(H_zero - H_sae) / (H_zero - H_clean), H the mean cross-entropy of the next token",
    "cross_entropy_recovered_mean_ablation": "(H_mean - H_sae) / (H_mean - H_clean), ablating to the mean activation",
    "kl_divergence": "E of KL(clean || with autoencoder) over the tokens' next-token distributions, in nats",
    "kl_recovered": "(KL_zero - KL_sae) / KL_zero",
}
NAMES = (
    "cross_entropy_chance",
    "cross_entropy_clean",
    "cross_entropy_sae",
    "cross_entropy_zero_ablation",
    "cross_entropy_mean_ablation",
    "cross_entropy_recovered",
    "cross_entropy_recovered_mean_ablation",
    "kl_divergence",
    "kl_divergence_zero_ablation",
    "kl_divergence_mean_ablation",
    "kl_recovered",
)
"""The figures of an evaluation in the model."""
CHANCE = 0.01
"""A model whose cross-entropy is within this fraction of a uniform guess predicts by chance. Freshly initialised
weights are within a tenth of it; predicting by token frequency alone is about 30 % below.
"""

Replace = Callable[[torch.Tensor], torch.Tensor]
"""Maps activations of shape (n, width) to as many."""
_Key = tuple[str, str]
_CLEAN: _Key = ("clean", "")


@contextmanager
def replace_activations(model: LoadedModel, hook: Hook, kept: torch.Tensor, replace: Replace) -> Iterator[None]:
    """Replace the activations at the kept positions of a hook during the block; `kept` has shape (sequences, length).

    Everything after the hook sees the new values, and nothing before it does, as with TransformerLens's
    `run_with_hooks`. Gradients do not flow through a hook on the residual stream.
    """
    module = model.module.get_submodule(hook.path)

    def changed(value: Any) -> Any:
        if isinstance(value, (tuple, list)) and value:
            return type(value)((changed(value[0]), *value[1:]))
        return _at(value, kept, replace, hook.name)

    def change_input(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        return _input(args, named, changed)

    def change_stream(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        # The addition after the module reads this very tensor: replaced in place, it changes for both.
        value = next(each for each in (*args, *named.values()) if isinstance(each, torch.Tensor))
        with torch.no_grad():
            value.copy_(changed(value))

    if hook.side == "output":
        handle = module.register_forward_hook(lambda _, __, output: changed(output))
    else:
        change = change_stream if hook.side == "stream" else change_input
        handle = module.register_forward_pre_hook(change, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _input(args: tuple[Any, ...], named: dict[str, Any], changed: Replace) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Change the first tensor among a module's arguments."""
    for index, each in enumerate(args):
        if isinstance(each, torch.Tensor):
            return (*args[:index], changed(each), *args[index + 1 :]), named
    name = next(name for name, each in named.items() if isinstance(each, torch.Tensor))
    return args, named | {name: changed(named[name])}


def _at(value: torch.Tensor, kept: torch.Tensor, replace: Replace, name: str) -> torch.Tensor:
    # Some models flatten sequences and length within their blocks.
    if value.shape[:2] != kept.shape and not (value.ndim == 2 and len(value) == kept.numel()):
        raise errors.InvalidArgument(
            f"{name}: its module does not return one vector per token (shape {list(value.shape)} for "
            f"{list(kept.shape)} tokens), so an autoencoder cannot replace it. Choose another hook.",
            reason="HOOK_NOT_FOUND",
        )
    flat = value.reshape(kept.numel(), -1)
    places = kept.reshape(-1)
    result = flat.clone()
    result[places] = replace(flat[places]).to(flat.dtype)
    return result.view(value.shape)


class SpliceEvaluator:
    """Cross-entropy and KL divergence over tokens, for autoencoders of one hook: clean, spliced and ablated."""

    def __init__(self, model: LoadedModel, hook: Hook, reconstructs: Mapping[str, Replace], mean: torch.Tensor) -> None:
        """`reconstructs` are the autoencoders by name; `mean` of shape (width,) is the mean activation at the hook."""
        self._model = model
        self._hook = hook
        self._replacing: dict[_Key, Replace] = {
            ("ablation", "zero"): torch.zeros_like,
            ("ablation", "mean"): lambda x: mean.to(x.device, x.dtype).expand_as(x),
        } | {("sae", name): replace for name, replace in reconstructs.items()}
        self._entropy: dict[_Key, Mean] = {key: Mean() for key in (_CLEAN, *self._replacing)}
        self._loss: dict[_Key, Mean] = {key: Mean() for key in self._replacing}
        """The loss against the clean run, token by token: far less uncertain than either cross-entropy."""
        self._divergence: dict[_Key, Mean] = {key: Mean() for key in self._replacing}
        self._num_tokens = 0
        self._vocabulary = 0

    @torch.no_grad()
    def add(self, sequences: TokenSequences) -> None:
        """Run the model on sequences: clean, with each ablation, and with each autoencoder."""
        kept = sequences.kept.bool()
        # The next token is scored where the autoencoder was spliced in and the next token is not padding.
        scored = kept[:, :-1] & sequences.attention_mask[:, 1:].bool()
        clean = self._logits(sequences)
        entropy = _cross_entropy(clean, sequences.input_ids, scored)
        self._entropy[_CLEAN].add(entropy)
        for key, replace in self._replacing.items():
            with replace_activations(self._model, self._hook, kept, replace):
                logits = self._logits(sequences)
            changed = _cross_entropy(logits, sequences.input_ids, scored)
            self._entropy[key].add(changed)
            self._loss[key].add(changed - entropy)
            self._divergence[key].add(_divergence(clean, logits, kept))
        self._num_tokens += int(kept.sum())
        self._vocabulary = clean.shape[-1]

    def _logits(self, sequences: TokenSequences) -> torch.Tensor:
        mask = sequences.attention_mask
        output = self._model.module(input_ids=sequences.input_ids, attention_mask=mask, use_cache=False)
        logits: torch.Tensor = output.logits
        return logits

    def figures(self, name: str) -> dict[str, Any]:
        """Return an autoencoder's figures of FORMULAS and their parts; see `ratios` for undefined ones."""
        if not self._entropy[_CLEAN].count:
            return not_evaluated("no held-out sequence has a token that is trained on and another after it") | {
                "tokens": self._num_tokens
            }
        own, own_kl = self._entropy["sae", name], self._divergence["sae", name]
        zero, mean = (self._entropy["ablation", kind] for kind in ("zero", "mean"))
        kl_zero, kl_mean = (self._divergence["ablation", kind] for kind in ("zero", "mean"))
        found = Figures(
            f"it is NaN or infinite. {finiteness.suggest_dtype(self._model.dtype)}",
            tokens=self._num_tokens,
            cross_entropy_chance=self._chance,
            cross_entropy_clean=self._entropy[_CLEAN].value,
            cross_entropy_sae=own.value,
            cross_entropy_zero_ablation=zero.value,
            cross_entropy_mean_ablation=mean.value,
            kl_divergence=own_kl.value,
            kl_divergence_zero_ablation=kl_zero.value,
            kl_divergence_mean_ablation=kl_mean.value,
        )
        self._add_recovered(found, "cross_entropy_recovered", own.value, "zero")
        self._add_recovered(found, "cross_entropy_recovered_mean_ablation", own.value, "mean")
        why_not = undefined(
            "the KL divergence of zero ablation", kl_zero.value, error=kl_zero.error, rounding=self._kl_rounding
        )
        found.add_ratio("kl_recovered", kl_zero.value - own_kl.value, kl_zero.value, why_not)
        return found.to_dict()

    def _add_recovered(self, found: Figures, name: str, own: float, ablation: str) -> None:
        loss = self._loss["ablation", ablation]
        what = f"what {ablation} ablation adds to the cross-entropy"
        why_not = self._by_chance() or undefined(what, loss.value, error=loss.error, rounding=self._entropy_rounding)
        ablated = self._entropy["ablation", ablation].value
        found.add_ratio(name, ablated - own, ablated - self._entropy[_CLEAN].value, why_not)
        if loss.value < 0:
            found.warn(
                name,
                f"{ablation} ablation lowers the cross-entropy, by {-loss.value:.3g}: 1 means predicting as "
                "badly as the model does",
            )

    def _by_chance(self) -> str:
        """Return why a model that predicts by chance has nothing to recover, or an empty string."""
        clean = self._entropy[_CLEAN]
        if not math.isfinite(clean.value):
            return undefined("the model's own cross-entropy", clean.value)
        apart = abs(self._chance - clean.value)
        if apart > max(CHANCE * self._chance, STANDARD_ERRORS * clean.error):
            return ""
        return (
            f"the model predicts by chance: its cross-entropy is {clean.value:.4g}, and ln {self._vocabulary:,}, "
            f"that of a uniform guess, is {self._chance:.4g}"
        )

    @property
    def _chance(self) -> float:
        return math.log(self._vocabulary)

    @property
    def _entropy_rounding(self) -> float:
        # Of a mean: each token's value is rounded on its own.
        return torch.finfo(self._model.dtype).eps * self._chance / math.sqrt(self._entropy[_CLEAN].count)

    @property
    def _kl_rounding(self) -> float:
        # To second order in the rounding of logits, and to first order in that of their logarithms.
        logits, logarithms = (torch.finfo(dtype).eps * self._chance for dtype in (self._model.dtype, torch.float32))
        return max(logarithms, logits**2)


def not_evaluated(reason: str) -> dict[str, Any]:
    """Return the figures of an evaluation in the model that was not possible."""
    found = Figures()
    for name in NAMES:
        found.leave_undefined(name, reason)
    return found.to_dict()


def _cross_entropy(logits: torch.Tensor, ids: torch.Tensor, scored: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy in nats of the next token, for each scored position in turn; float64."""
    # Sequence by sequence: float32 logits and their logarithms are several times the size of the model's output.
    return torch.cat(
        [
            functional.cross_entropy(row[:-1][at].float(), target[1:][at], reduction="none").double()
            for row, target, at in zip(logits, ids, scored, strict=True)
        ]
    )


def _divergence(clean: torch.Tensor, changed: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    """Return KL(clean || changed) in nats, of each kept position in turn; float64."""
    found = []
    for p, q, at in zip(clean, changed, kept, strict=True):
        log_p, log_q = functional.log_softmax(p[at].float(), dim=-1), functional.log_softmax(q[at].float(), dim=-1)
        each = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        found.append(each.double())
    return torch.cat(found)
