"""What makes a tokenizer the one that it is: sha256 over the content that decides which ids a text becomes.

The chat templates, which decide what text a conversation becomes, have a fingerprint of their own: a text's ids do not
depend on them.
"""

import hashlib
import json
from collections.abc import Mapping

import tokenizers


def fingerprint(backend: tokenizers.Tokenizer, special_tokens: Mapping[str, object]) -> str:
    """Return sha256, hexadecimal, of a tokenizer's content.

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
    return _digest(whole)


def chat_template_fingerprint(templates: str | Mapping[str, str] | None, special_tokens: Mapping[str, object]) -> str:
    """Return sha256, hexadecimal, of the chat templates, by name if there are several, and of what they are given.

    That is the text of each special token by its role, as `apply_chat_template` of transformers gives it. Empty without
    a template.
    """
    if not templates:
        return ""
    named = {"default": templates} if isinstance(templates, str) else dict(templates)
    return _digest({"templates": named, "special_tokens": special_tokens})


def _digest(content: Mapping[str, object]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
