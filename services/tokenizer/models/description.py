"""Describe a tokenizer, and encode texts for display: the responses of TokenizerService."""

import json
from typing import Any

from polytok.catalog.v1 import models_pb2
from polytok.tokenizer.v1 import answers_pb2, tasks_pb2, tokenizer_pb2
from services.tokenizer.models import loader, token_offsets


def inspect(
    reference: tasks_pb2.TokenizerReference, tokenizers: loader.TokenizerCache
) -> tokenizer_pb2.InspectResponse:
    """Describe a tokenizer."""
    tokenizer = tokenizers.get(reference)
    backend = tokenizer.backend
    return tokenizer_pb2.InspectResponse(
        fingerprint=tokenizer.fingerprint,
        tokenizer_class=tokenizer.class_name,
        type=type(backend.model).__name__,
        vocab_size=tokenizer.vocab_size,
        added_tokens=len(backend.get_added_tokens_decoder()),
        special_tokens=[
            models_pb2.SpecialToken(role=role, text=text, id=token) for role, text, token in tokenizer.special_tokens
        ],
        normalizer=_part(backend.normalizer),
        pre_tokenizer=_part(backend.pre_tokenizer),
        post_processor=_part(backend.post_processor),
        chat_template=_chat_template(tokenizer),
        model_max_length=tokenizer.model_max_length,
    )


def encode(task: answers_pb2.EncodeTask, tokenizers: loader.TokenizerCache) -> tokenizer_pb2.Encoding:
    """Encode a text with the reference."""
    tokenizer = tokenizers.get(task.tokenizer)
    backend = tokenizer.backend
    encoding = backend.encode(task.text, add_special_tokens=task.add_special_tokens)
    # Not encoding.tokens: there an added token includes the spaces that it swallowed.
    pieces = [str(backend.id_to_token(token)) for token in encoding.ids]
    found = token_offsets.find(task.text, encoding, pieces, backend.get_added_tokens_decoder().keys())
    return tokenizer_pb2.Encoding(
        fingerprint=tokenizer.fingerprint,
        exact_offsets=found.exact,
        tokens=[
            tokenizer_pb2.Token(id=token, piece=piece, start=start, end=end, added=bool(around))
            for token, piece, (start, end), around in zip(
                encoding.ids, pieces, found.spans, encoding.special_tokens_mask, strict=True
            )
        ],
    )


def _part(part: Any) -> str:
    if part is None:
        return ""
    # The pickled state of the part is its section of tokenizer.json.
    return json.dumps(json.loads(part.__getstate__()), ensure_ascii=False)


def _chat_template(tokenizer: loader.Tokenizer) -> str:
    """Return the template for rendering conversations: the one called default if there are several."""
    found = tokenizer.pretrained.chat_template
    return found.get("default", "") if isinstance(found, dict) else found or ""
