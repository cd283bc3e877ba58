"""Tiny models of every family, made on the spot, and rows of random tokens."""

import pathlib
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
import transformers

from services.activations import hook_names, models

ROWS = 97
"""Embedding rows of every model here."""
FOLDER = "model"
"""What `load` calls a model's folder."""
_IDS = {"vocab_size": ROWS, "bos_token_id": 0, "eos_token_id": 1}
_COMMON = _IDS | {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 2,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
_ROUTED = {"num_experts_per_tok": 2}
_DEEPSEEK = _COMMON | {
    "num_key_value_heads": 4,
    "q_lora_rank": 12,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "first_k_dense_replace": 1,
}

CONFIGURATIONS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertConfig(**_COMMON),
    "deepseek_v2": lambda: transformers.DeepseekV2Config(
        **_DEEPSEEK, topk_method="greedy", n_group=1, topk_group=1, norm_topk_prob=False
    ),
    "deepseek_v3": lambda: transformers.DeepseekV3Config(**_DEEPSEEK, n_group=2, topk_group=1),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=ROWS, n_layers=3, dim=32, hidden_dim=48, n_heads=4, max_position_embeddings=64, pad_token_id=2
    ),
    "gemma": lambda: transformers.GemmaConfig(**_GROUPED, head_dim=8),
    "gemma2": lambda: transformers.Gemma2Config(**_GROUPED, head_dim=8, sliding_window=6),
    "gemma3": lambda: transformers.Gemma3Config(
        text_config=_GROUPED | {"head_dim": 8, "sliding_window": 6},
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=1,
        image_token_index=90,
        boi_token_index=91,
        eoi_token_index=92,
    ),
    "gemma3_text": lambda: transformers.Gemma3TextConfig(**_GROUPED, head_dim=8, sliding_window=6),
    "gpt2": lambda: transformers.GPT2Config(**_IDS, n_layer=3, n_embd=32, n_head=4, n_positions=64, n_ctx=64),
    "gpt_neo": lambda: transformers.GPTNeoConfig(
        **_IDS,
        num_layers=3,
        attention_types=[[["global", "local", "global"], 1]],
        hidden_size=32,
        num_heads=4,
        max_position_embeddings=64,
        window_size=6,
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**_COMMON),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **_GROUPED, **_ROUTED, num_local_experts=4, head_dim=8, sliding_window=6
    ),
    "gptj": lambda: transformers.GPTJConfig(**_IDS, n_layer=3, n_embd=32, n_head=4, n_positions=64, rotary_dim=4),
    "llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "mistral": lambda: transformers.MistralConfig(**_GROUPED, head_dim=8, sliding_window=6),
    "mixtral": lambda: transformers.MixtralConfig(**_GROUPED, **_ROUTED, num_local_experts=4),
    "modernbert": lambda: transformers.ModernBertConfig(
        **_COMMON | {"cls_token_id": 0, "sep_token_id": 1}, local_attention=6
    ),
    "olmo2": lambda: transformers.Olmo2Config(**_GROUPED),
    "olmoe": lambda: transformers.OlmoeConfig(**_GROUPED, **_ROUTED, num_experts=4),
    "opt": lambda: transformers.OPTConfig(
        **_IDS,
        num_hidden_layers=3,
        hidden_size=32,
        ffn_dim=48,
        num_attention_heads=4,
        max_position_embeddings=64,
        word_embed_proj_dim=32,
        pad_token_id=2,
    ),
    "phi": lambda: transformers.PhiConfig(**_COMMON),
    "phi3": lambda: transformers.Phi3Config(**_GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**_GROUPED),
    "qwen2_moe": lambda: transformers.Qwen2MoeConfig(
        **_GROUPED,
        **_ROUTED,
        num_experts=4,
        moe_intermediate_size=24,
        shared_expert_intermediate_size=40,
        decoder_sparse_step=2,
    ),
    "qwen3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=16),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **_GROUPED, **_ROUTED, head_dim=16, num_experts=4, moe_intermediate_size=24, mlp_only_layers=[0]
    ),
    "roberta": lambda: transformers.RobertaConfig(**_COMMON | {"pad_token_id": 1, "max_position_embeddings": 66}),
    "smollm3": lambda: transformers.SmolLM3Config(**_GROUPED),
    "starcoder2": lambda: transformers.Starcoder2Config(**_GROUPED),
    "xlm-roberta": lambda: transformers.XLMRobertaConfig(
        **_COMMON | {"pad_token_id": 1, "max_position_embeddings": 66}
    ),
}


def save(kind: str, folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """Write a model with random weights and return its folder; the same ones each time."""
    configuration = CONFIGURATIONS[kind]()
    for name, value in changes.items():
        setattr(configuration, name, value)
    auto = transformers.AutoModelForMaskedLM if "bert" in kind else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    transformers.utils.logging.disable_progress_bar()
    model = auto.from_config(configuration)
    for parameter in model.parameters():
        # As they are initialised, biases are 0 and norms 1: a hook on the wrong side of one would look right.
        torch.nn.init.normal_(parameter, 0.5 if parameter.ndim == 1 else 0.0, 0.2)
    model.save_pretrained(folder)
    return folder


def load(kind: str, folder: pathlib.Path, **options: Any) -> models.LoadedModel:
    """Load such a model, with the attention whose results depend on nothing but the row."""
    return models.load(save(kind, folder / FOLDER), **({"attention": "eager"} | options))


def hidden_states(model: models.LoadedModel, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the model's own hidden states for tokens [batch, length], by the kernels that a `Capture` runs.

    A cache of keys and values, which causal models keep by default, copies them into another memory layout, and some
    processors' matrix products then add up in another order: the same values within rounding.
    """
    options = {} if model.description.masked else {"use_cache": False}
    with torch.inference_mode():
        found: tuple[torch.Tensor, ...] = model.module(ids, output_hidden_states=True, **options).hidden_states
    return found


def points(model: models.LoadedModel, layer: int) -> list[str]:
    """Return the names of hooks in a block."""
    family = model.description.family
    return [point for point in family.points if point != hook_names.INNER or layer not in family.sparse]


def rows(count: int, longest: int, shortest: int = 1, seed: int = 0) -> list[list[int]]:
    """Rows of random tokens, none of them a special one."""
    generator = np.random.default_rng(seed)
    return [generator.integers(3, ROWS, int(generator.integers(shortest, longest + 1))).tolist() for _ in range(count)]


def dataset(lists: list[list[int]]) -> datasets.Dataset:
    """Return a tokenization without padding."""
    return datasets.Dataset.from_dict({"input_ids": lists})


def padded(lists: list[list[int]], *, left: bool) -> datasets.Dataset:
    """Return a tokenization with padding up to its longest row."""
    longest = max(map(len, lists))
    fill = [longest - len(row) for row in lists]
    ids = [[2] * n + row if left else row + [2] * n for n, row in zip(fill, lists, strict=True)]
    masks = [[0] * n + [1] * len(row) if left else [1] * len(row) + [0] * n for n, row in zip(fill, lists, strict=True)]
    return datasets.Dataset.from_dict({"input_ids": ids, "attention_mask": masks})
