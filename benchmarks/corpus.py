"""Small generated inputs of the benchmarks."""

import json
import pathlib
import pydoc_data.topics
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers


def documents(count: int) -> Iterator[str]:
    """Return N documents of English prose and code: Python's own manual, repeated."""
    topics = list(pydoc_data.topics.topics.values())
    for index in range(count):
        yield topics[index % len(topics)]


def write_jsonl(path: pathlib.Path, count: int) -> int:
    """Write documents as jsonl; return the bytes of text in them."""
    text_bytes = 0
    with path.open("w") as lines:
        for text in documents(count):
            text_bytes += len(text.encode())
            lines.write(json.dumps({"text": text}) + "\n")
    return text_bytes


def write_tokenizer(folder: pathlib.Path, vocabulary: int = 4096) -> None:
    """Train a byte-level BPE like GPT-2's, and write it in the Hugging Face layout."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents(200), trainer)
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 1024, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(
        json.dumps({"model_type": "gpt2", "n_positions": 1024, "n_embd": 64, "n_layer": 2})
    )


def write_wordpiece(folder: pathlib.Path, texts: Sequence[str], vocabulary: int = 30_000) -> None:
    """Train a WordPiece like BERT's on texts, and write it in the Hugging Face layout."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **roles}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
