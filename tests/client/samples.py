"""A small corpus and a small model, as files."""

import json
import pathlib
import uuid

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TEXTS = [f"Document {number} tells of the sea, the wind and {number * 7} ships.\nIt ends here." for number in range(40)]


def unique(prefix: str) -> str:
    """Return an id that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:8]}"


def write_jsonl(path: pathlib.Path, texts: list[str] | None = None) -> pathlib.Path:
    """Return a file of documents."""
    rows = [{"text": text, "number": number} for number, text in enumerate(TEXTS if texts is None else texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_model(folder: pathlib.Path) -> pathlib.Path:
    """Return a model folder in the Hugging Face layout: a byte-level BPE tokenizer and a configuration."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    configuration = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 64, **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration))
    architecture = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": tokenizer.get_vocab_size(),
        "n_positions": 64,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
    }
    (folder / "config.json").write_text(json.dumps(architecture))
    return folder
