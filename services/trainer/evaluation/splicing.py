"""What a model loses when an autoencoder stands in for a hook: cross-entropy and KL divergence.

The module of the hook runs as ever and what it takes or gives is replaced, at the positions that the autoencoder is
for and nowhere else: padding and excluded tokens pass unchanged, under ablation too. (sae-lens leaves excluded tokens
alone when it splices, and ablates every position; where none is excluded the two agree.)
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional

from polytok import errors
from services.activations.hooks import Hook
from services.activations.models import LoadedModel
from services.trainer.data.streams import Sequences

FORMULAS = {
    "cross_entropy_recovered": "(H_zero - H_sae) / (H_zero - H_clean), H the mean cross-entropy of the next token",
    "cross_entropy_recovered_mean_ablation": "(H_mean - H_sae) / (H_mean - H_clean), ablating to the mean activation",
    "kl_divergence": "E of KL(clean || with autoencoder) over the tokens' next-token distributions, in nats",
    "kl_recovered": "(KL_zero - KL_sae) / KL_zero",
}

Replace = Callable[[torch.Tensor], torch.Tensor]
"""Takes activations of shape (n, width), gives as many."""


@contextmanager
def replaced(model: LoadedModel, hook: Hook, kept: torch.Tensor, replace: Replace) -> Iterator[None]:
    """Replaces what passes a hook at the kept positions while the block runs; `kept` has shape (sequences, length).

    Everything behind the hook sees the new values, and nothing before it does, as with TransformerLens's
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
        # The addition behind the module reads this very tensor: in its memory, it is replaced for both.
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
    """Changes the first tensor among a module's arguments."""
    for index, each in enumerate(args):
        if isinstance(each, torch.Tensor):
            return (*args[:index], changed(each), *args[index + 1 :]), named
    name = next(name for name, each in named.items() if isinstance(each, torch.Tensor))
    return args, named | {name: changed(named[name])}


def _at(value: torch.Tensor, kept: torch.Tensor, replace: Replace, name: str) -> torch.Tensor:
    # Some models flatten sequences and length within their blocks.
    if value.shape[:2] != kept.shape and not (value.ndim == 2 and len(value) == kept.numel()):
        raise errors.InvalidArgument(
            f"{name}: its module gives no vector for each token (shape {list(value.shape)} for {list(kept.shape)} "
            "tokens); an autoencoder cannot stand in for it. Name another hook.",
            reason="HOOK_NOT_FOUND",
        )
    flat = value.reshape(kept.numel(), -1)
    places = kept.reshape(-1)
    result = flat.clone()
    result[places] = replace(flat[places]).to(flat.dtype)
    return result.view(value.shape)


class Splicing:
    """Sums over tokens of cross-entropy and KL divergence, for autoencoders of one hook: clean, spliced and ablated."""

    def __init__(self, model: LoadedModel, hook: Hook, reconstructs: Mapping[str, Replace], mean: torch.Tensor) -> None:
        """`reconstructs` are the autoencoders by name; `mean` of shape (width,) is the mean activation at the hook."""
        self._model = model
        self._hook = hook
        self._replacing: dict[tuple[str, str], Replace] = {
            ("ablation", "zero"): torch.zeros_like,
            ("ablation", "mean"): lambda x: mean.to(x.device, x.dtype).expand_as(x),
        } | {("sae", name): replace for name, replace in reconstructs.items()}
        self._entropy: dict[tuple[str, str], float] = {}
        self._divergence: dict[tuple[str, str], float] = {}
        self._targets = 0
        self._tokens = 0

    @torch.no_grad()
    def add(self, sequences: Sequences) -> None:
        """Runs the model on sequences: clean, with each ablation, and with each autoencoder."""
        kept = sequences.kept.bool()
        # The next token is scored where the autoencoder was in place and the next one is none of padding.
        scored = kept[:, :-1] & sequences.attention_mask[:, 1:].bool()
        clean = self._logits(sequences)
        self._count(self._entropy, ("clean", ""), _cross_entropy(clean, sequences.input_ids, scored))
        for key, replace in self._replacing.items():
            with replaced(self._model, self._hook, kept, replace):
                logits = self._logits(sequences)
            self._count(self._entropy, key, _cross_entropy(logits, sequences.input_ids, scored))
            self._count(self._divergence, key, _divergence(clean, logits, kept))
        self._targets += int(scored.sum())
        self._tokens += int(kept.sum())

    def _logits(self, sequences: Sequences) -> torch.Tensor:
        mask = sequences.attention_mask
        output = self._model.module(input_ids=sequences.input_ids, attention_mask=mask, use_cache=False)
        logits: torch.Tensor = output.logits
        return logits

    def _count(self, into: dict[tuple[str, str], float], key: tuple[str, str], value: float) -> None:
        into[key] = into.get(key, 0.0) + value

    def figures(self, name: str) -> dict[str, Any]:
        """Gives an autoencoder's figures of FORMULAS and their parts; a ratio is None where its denominator is 0."""
        if not self._targets or not self._tokens:
            return {"tokens": 0}
        h = {key[1]: value / self._targets for key, value in self._entropy.items() if key[0] != "sae"}
        kl = {key[1]: value / self._tokens for key, value in self._divergence.items() if key[0] != "sae"}
        own, own_kl = self._entropy["sae", name] / self._targets, self._divergence["sae", name] / self._tokens
        return {
            "tokens": self._tokens,
            "cross_entropy_clean": h[""],
            "cross_entropy_sae": own,
            "cross_entropy_zero_ablation": h["zero"],
            "cross_entropy_mean_ablation": h["mean"],
            "cross_entropy_recovered": _ratio(h["zero"] - own, h["zero"] - h[""]),
            "cross_entropy_recovered_mean_ablation": _ratio(h["mean"] - own, h["mean"] - h[""]),
            "kl_divergence": own_kl,
            "kl_divergence_zero_ablation": kl["zero"],
            "kl_divergence_mean_ablation": kl["mean"],
            "kl_recovered": _ratio(kl["zero"] - own_kl, kl["zero"]),
        }


def _ratio(numerator: float, denominator: float) -> float | None:
    return numerator / denominator if denominator else None


def _cross_entropy(logits: torch.Tensor, ids: torch.Tensor, scored: torch.Tensor) -> float:
    """The sum over the scored positions, in nats, of the cross-entropy of the token behind."""
    # Sequence by sequence: logits in float32 and their logarithms are several times what the model gave.
    return sum(
        float(functional.cross_entropy(row[:-1][at].float(), target[1:][at], reduction="none").double().sum())
        for row, target, at in zip(logits, ids, scored, strict=True)
    )


def _divergence(clean: torch.Tensor, changed: torch.Tensor, kept: torch.Tensor) -> float:
    """The sum over the kept positions of KL(clean || changed), in nats."""
    total = 0.0
    for p, q, at in zip(clean, changed, kept, strict=True):
        log_p, log_q = functional.log_softmax(p[at].float(), dim=-1), functional.log_softmax(q[at].float(), dim=-1)
        each = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        total += float(each.double().sum())
    return total
