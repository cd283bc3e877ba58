"""The demo's two models: each a tokenizer and a small transformer in the Hugging Face layout.

The demo trains both, because figures about a model with random weights would be meaningless.
"""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from tokenizers import Tokenizer

from polytok.demo import demo_tokenizers, pretraining

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SEED = 0


class Recipe(NamedTuple):
    """How to create one model of the demo."""

    model_id: str
    tokenizer: str
    """Description of the tokenizer."""
    train: Callable[[Iterable[str]], Tokenizer]
    transformer: Callable[[Tokenizer], "PreTrainedModel"]
    special_tokens: dict[str, str]
    context_length: int


def save(
    recipe: Recipe,
    tokenizer: Tokenizer,
    folder: pathlib.Path,
    texts: Iterable[str],
    *,
    steps: int = pretraining.STEPS,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Train the weights on texts and write tokenizer, configuration and weights, atomically."""
    # Read when torch is loaded: threads that spin between operations slow each other down on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # noqa: PLC0415  slow to import
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tokenizer.save(str(partial / "tokenizer.json"))
    configuration = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": recipe.context_length,
        **recipe.special_tokens,
    }
    (partial / "tokenizer_config.json").write_text(json.dumps(configuration, indent=2) + "\n", encoding="utf-8")
    transformers_logging.disable_progress_bar()
    torch.manual_seed(SEED)
    model = recipe.transformer(tokenizer)
    pretraining.train(model, tokenizer, texts, steps=steps, report=report)
    model.save_pretrained(partial)
    partial.rename(folder)


def _gpt2(tokenizer: Tokenizer) -> "PreTrainedModel":
    from transformers import GPT2Config, GPT2LMHeadModel  # noqa: PLC0415

    end = tokenizer.token_to_id("<|endoftext|>")
    configuration = GPT2Config(
        vocab_size=tokenizer.get_vocab_size(),
        n_positions=1024,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=end,
        eos_token_id=end,
    )
    return GPT2LMHeadModel(configuration)


def _llama(tokenizer: Tokenizer) -> "PreTrainedModel":
    from transformers import LlamaConfig, LlamaForCausalLM  # noqa: PLC0415

    configuration = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=2048,
        hidden_size=64,
        intermediate_size=176,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=tokenizer.token_to_id("</s>"),
    )
    return LlamaForCausalLM(configuration)


RECIPES = (
    Recipe(
        model_id="gpt2-demo",
        tokenizer="byte-level BPE, as GPT-2 has it",
        train=demo_tokenizers.byte_level,
        transformer=_gpt2,
        special_tokens={
            "bos_token": "<|endoftext|>",
            "eos_token": "<|endoftext|>",
            "unk_token": "<|endoftext|>",
        },
        context_length=1024,
    ),
    Recipe(
        model_id="llama2-demo",
        tokenizer="SentencePiece BPE with byte fallback, as Llama 2 has it",
        train=demo_tokenizers.sentencepiece,
        transformer=_llama,
        special_tokens={"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
        context_length=2048,
    ),
)
