"""Where the files of tokenizers are: those of `services.runtime.hub` that a tokenizer consists of, and no weights."""

from services.runtime.hub import TOKENIZER, commit, folder

__all__ = ["TOKENIZER", "commit", "folder"]
