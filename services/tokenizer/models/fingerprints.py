"""What makes a tokenizer the one that it is: sha256 over the content that decides which ids a text becomes."""

import hashlib
import json
from collections.abc import Mapping

import tokenizers


def fingerprint(backend: tokenizers.Tokenizer, special_tokens: Mapping[str, object]) -> str:
    """Returns sha256, hexadecimal, of a tokenizer's content.

    That is the serialized tokenizer (model, normaliser, pre-tokenizer, post-processor, added tokens), whether special
    tokens in the text are split, and the roles of its special tokens, of which packing makes use. Truncation and
    padding are left out: each tokenization has its own.
    """
    content = json.loads(backend.to_str())
    content["truncation"] = content["padding"] = None
    whole = {
        "tokenizer": content,
        "split_special_tokens": bool(backend.encode_special_tokens),
        "special_tokens": special_tokens,
    }
    canonical = json.dumps(whole, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
