# ruff: noqa: RUF001 (the letters that look alike are the point)
"""Texts and tokenizers that the tests make themselves."""

import inspect
import json
import pathlib
import pydoc_data.topics

import tokenizers
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

ADVERSARIAL = [
    "",
    " ",
    "   leading and trailing   ",
    "\n\n\t \r\n  mixed\u00a0white\u2003space\u3000 \u2028 \u200b",
    "I'm you'RE they'Ve WE'LL he'D can't 'tis rock'n'roll",
    "e\u0301 é n\u0303 ñ \u1100\u1161\u11a8 각 ﬁ ① ﷺ",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308",
    "\U0001f44d\U0001f3fd \U0001f1fa\U0001f1f3 \U0001fae8",
    "中文分词没有空格，日本語の文章です。한국어 문장",
    "שלום עולם مرحبا بالعالم \u202eright to left\u202c",
    "\x00\x01\x07\x1b[0m\x7f\x85 control",
    "<s></s><unk><|endoftext|> [CLS] [SEP] <s >< /s>",
    "\ufffd \ufeff \ufffe \uffff \U0010ffff \ud7ff \ue000",
    "▁ ▁▁ already ▁marked <0x0A> <0xFF>",
    "a" * 3000,
    "antidisestablishmentarianism" * 40,
    "x=1;y=[i**2for i in range(10)]#c\n\tdef f(self,*,a:int=0)->None:...",
    "3.14159 1,000,000 0xDEADBEEF 10⁻⁹ ½ ٣ ४",
    "\u088f \u0c5c \u0cdc \U00011f04",
    "Ｆｕｌｌｗｉｄｔｈ ｔｅｘｔ ǅ ß ẞ İ ı",
    "end with newline\n",
]
"""What tokenizers disagree about."""

DOCUMENTS = [text for _, text in sorted(pydoc_data.topics.topics.items())][:60] + [
    inspect.getsource(module) for module in (json, inspect, pathlib)
]
"""Prose and code that every machine has."""


def byte_level(folder: pathlib.Path) -> pathlib.Path:
    """Byte-level BPE as GPT-2 has it: no special token around a document."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    backend.train_from_iterator(DOCUMENTS, trainer)
    end = "<|endoftext|>"
    return _saved(backend, folder, bos_token=end, eos_token=end, unk_token=end, model_max_length=512)


def sentencepiece(folder: pathlib.Path) -> pathlib.Path:
    """SentencePiece-style BPE with byte fallback as Llama 2 has it: <s> before a document."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(DOCUMENTS, trainers.BpeTrainer(vocab_size=1500, show_progress=False))
    learned = json.loads(trained.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += [piece for piece in sorted(learned["vocab"], key=learned["vocab"].get) if piece.isprintable()]
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    merges = [(a, b) for a, b in learned["merges"] if a in vocab and b in vocab and a + b in vocab]
    backend = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return _saved(backend, folder, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=256)


def wordpiece(folder: pathlib.Path) -> pathlib.Path:
    """WordPiece as BERT has it: [CLS] before and [SEP] after a document, an unknown token, lower case."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]"]
    backend.train_from_iterator(
        DOCUMENTS, trainers.WordPieceTrainer(vocab_size=1500, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    # A truncation and a padding of its own, as sentence encoders are saved with: no concern of a tokenization.
    backend.enable_truncation(7)
    backend.enable_padding(length=9, pad_id=3, pad_token="[PAD]")
    return _saved(backend, folder, unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]")


def _saved(backend: tokenizers.Tokenizer, folder: pathlib.Path, **roles: object) -> pathlib.Path:
    transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **roles).save_pretrained(folder)
    return folder
