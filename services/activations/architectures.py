"""Where TransformerLens's hook names are in each family of models.

The names are those of TransformerLens (`components/transformer_block.py`, `components/bert_block.py`), the modules
those of transformers. A hook point is the input or the output of a module: the input of the layer norm after a
residual addition is the sum itself, bit for bit. That sum has a second reader, the next addition, which no module's
input shows: such a point is on the residual stream.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

Side = Literal["input", "output", "stream"]
"""A module's input, its output, or an input that is the residual stream and is added again after the module."""


class HookPoint(NamedTuple):
    """A hook point in a block."""

    path: str
    """The module, by its path within the block; empty for the block itself."""
    side: Side


class ModelFamily(NamedTuple):
    """The structure of one kind of models. Paths are relative to the model without its head."""

    blocks: str
    """The list of blocks."""
    embedding: str
    """The token embedding."""
    points: Mapping[str, HookPoint]
    """Hook name without `blocks.{i}.` → its place."""
    masked: bool = False
    """Whether tokens attend to later ones: a masked language model instead of a causal one."""
    sparse: frozenset[int] = frozenset()
    """Blocks whose MLP is a mixture of experts."""


def _points(mlp: str, down: str, attention: str, z: str, middle: str = "") -> dict[str, HookPoint]:
    """Return a block that normalises before attention and MLP; without `middle` both read the block's input."""
    points = {
        "hook_resid_pre": HookPoint("", "input"),
        "hook_attn_out": HookPoint(attention, "output"),
        "hook_mlp_out": HookPoint(mlp, "output"),
        "hook_resid_post": HookPoint("", "output"),
        "attn.hook_z": HookPoint(z, "input"),
        "mlp.hook_post": HookPoint(down, "input"),
    }
    return points | ({"hook_resid_mid": HookPoint(middle, "stream")} if middle else {})


def _post_norm(points: dict[str, HookPoint], middle: str) -> dict[str, HookPoint]:
    """Return a block that normalises after each addition.

    `hook_resid_post` is the block's normalised output: the model's hidden state and the input of the next block, as in
    TransformerLens's TransformerBridge. HookedEncoder calls it `hook_normalized_resid_post`.
    """
    return points | {
        # The norm's output is added after the MLP, not this sum.
        "hook_resid_mid": HookPoint(middle, "input"),
        "hook_normalized_resid_post": HookPoint("", "output"),
    }


def _gpt2(_: Any) -> ModelFamily:
    return ModelFamily("h", "wte", _points("mlp", "mlp.c_proj", "attn", "attn.c_proj", "ln_2"))


def _gpt_neo(_: Any) -> ModelFamily:
    return ModelFamily("h", "wte", _points("mlp", "mlp.c_proj", "attn", "attn.attention.out_proj", "ln_2"))


def _gptj(_: Any) -> ModelFamily:
    return ModelFamily("h", "wte", _points("mlp", "mlp.fc_out", "attn", "attn.out_proj"))


def _gpt_neox(config: Any) -> ModelFamily:
    middle = "" if config.use_parallel_residual else "post_attention_layernorm"
    points = _points("mlp", "mlp.dense_4h_to_h", "attention", "attention.dense", middle)
    return ModelFamily("layers", "embed_in", points)


def _llama(_: Any) -> ModelFamily:
    points = _points("mlp", "mlp.down_proj", "self_attn", "self_attn.o_proj", "post_attention_layernorm")
    return ModelFamily("layers", "embed_tokens", points)


def _sparse(config: Any) -> ModelFamily:
    # The experts' outputs are summed within `mlp`, which every block has.
    return _llama(config)._replace(sparse=frozenset(range(config.num_hidden_layers)))


def _qwen_moe(config: Any) -> ModelFamily:
    step, dense = config.decoder_sparse_step, set(config.mlp_only_layers or ())
    numbers = range(config.num_hidden_layers) if config.num_experts else ()
    return _llama(config)._replace(
        sparse=frozenset(layer for layer in numbers if (layer + 1) % step == 0 and layer not in dense)
    )


def _deepseek(config: Any) -> ModelFamily:
    return _llama(config)._replace(sparse=frozenset(range(config.first_k_dense_replace, config.num_hidden_layers)))


def _gemma(_: Any) -> ModelFamily:
    # Gemma 2 and 3 normalise the outputs of attention and MLP before adding them: the hooks show the normalised ones.
    points = _points(
        "post_feedforward_layernorm",
        "mlp.down_proj",
        "post_attention_layernorm",
        "self_attn.o_proj",
        "pre_feedforward_layernorm",
    )
    return ModelFamily("layers", "embed_tokens", points)


def _gemma3(_: Any) -> ModelFamily:
    # The language model of a multimodal one.
    text = _gemma(None)
    return text._replace(blocks="language_model.layers", embedding="language_model.embed_tokens")


def _olmo2(_: Any) -> ModelFamily:
    # Nothing is normalised before attention and MLP: the MLP reads the residual stream itself.
    points = _points(
        "post_feedforward_layernorm", "mlp.down_proj", "post_attention_layernorm", "self_attn.o_proj", "mlp"
    )
    return ModelFamily("layers", "embed_tokens", points)


def _starcoder2(_: Any) -> ModelFamily:
    points = _points("mlp", "mlp.c_proj", "self_attn", "self_attn.o_proj", "post_attention_layernorm")
    return ModelFamily("layers", "embed_tokens", points)


def _modernbert(_: Any) -> ModelFamily:
    points = _points("mlp", "mlp.Wo", "attn", "attn.Wo", "mlp_norm")
    return ModelFamily("layers", "embeddings.tok_embeddings", points, masked=True)


def _phi(_: Any) -> ModelFamily:
    return ModelFamily("layers", "embed_tokens", _points("mlp", "mlp.fc2", "self_attn", "self_attn.dense"))


def _opt(config: Any) -> ModelFamily:
    points = _points("fc2", "fc2", "self_attn", "self_attn.out_proj", "final_layer_norm")
    if not config.do_layer_norm_before:
        points = _post_norm(points, "self_attn_layer_norm")
    return ModelFamily("decoder.layers", "decoder.embed_tokens", points)


def _bert(_: Any) -> ModelFamily:
    points = _points("output.dense", "output.dense", "attention.output.dense", "attention.output.dense")
    return ModelFamily(
        "encoder.layer",
        "embeddings.word_embeddings",
        _post_norm(points, "attention.output.LayerNorm"),
        masked=True,
    )


def _distilbert(_: Any) -> ModelFamily:
    points = _points("ffn", "ffn.lin2", "attention", "attention.out_lin")
    return ModelFamily(
        "transformer.layer", "embeddings.word_embeddings", _post_norm(points, "sa_layer_norm"), masked=True
    )


_FAMILIES: dict[str, Callable[[Any], ModelFamily]] = {
    "bert": _bert,
    "deepseek_v2": _deepseek,
    "deepseek_v3": _deepseek,
    "distilbert": _distilbert,
    "gemma": _llama,
    "gemma2": _gemma,
    "gemma3": _gemma3,
    "gemma3_text": _gemma,
    "gpt2": _gpt2,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "gpt_oss": _sparse,
    "gptj": _gptj,
    "llama": _llama,
    "mistral": _llama,
    "mixtral": _sparse,
    "modernbert": _modernbert,
    "olmo2": _olmo2,
    "olmoe": _sparse,
    "opt": _opt,
    "phi": _phi,
    "phi3": _llama,
    "qwen2": _llama,
    "qwen2_moe": _qwen_moe,
    "qwen3": _llama,
    "qwen3_moe": _qwen_moe,
    "roberta": _bert,
    "smollm3": _llama,
    "starcoder2": _starcoder2,
    "xlm-roberta": _bert,
}

NAMES = tuple(_FAMILIES)
"""The supported kinds of models, by the `model_type` of their config.json."""


def find_family(config: Any) -> ModelFamily:
    """Return the family of a transformers configuration whose `model_type` is one of NAMES."""
    return _FAMILIES[config.model_type](config)
