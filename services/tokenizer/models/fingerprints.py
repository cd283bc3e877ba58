"""Fingerprints of a tokenizer: sha256 over the content that decides which ids a text gets.

The chat templates, which decide the text of a conversation, have their own fingerprint: the ids of a text do not
depend on them.
"""

import hashlib
import json
from collections.abc import Mapping

import tokenizers


def fingerprint(backend: tokenizers.Tokenizer, special_tokens: Mapping[str, object]) -> str:
    """Return the sha256, hexadecimal, of a tokenizer's content.

    That is the serialized tokenizer (model, normaliser, pre-tokenizer, post-processor, added tokens), whether special
    tokens in the text are split, and the roles of its special tokens, which packing uses. Truncation and padding are
    excluded: each tokenization has its own.
    """
    content = json.loads(backend.to_str())
    content["truncation"] = content["padding"] = None
    whole = {
        "tokenizer": content,
        "split_special_tokens": bool(backend.encode_special_tokens),
        "special_tokens": special_tokens,
    }
    return _digest(whole)


def chat_template_fingerprint(templates: str | Mapping[str, str] | None, special_tokens: Mapping[str, object]) -> str:
    """Return the sha256, hexadecimal, of the chat templates, by name if there are several, and their inputs.

    The inputs are the text of each special token by its role, as transformers' `apply_chat_template` passes it. Empty
    without a template.
    """
    if not templates:
        return ""
    named = {"default": templates} if isinstance(templates, str) else dict(templates)
    return _digest({"templates": named, "special_tokens": special_tokens})


def _digest(content: Mapping[str, object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
