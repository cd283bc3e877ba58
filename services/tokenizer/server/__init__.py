"""TokenizerService, which the worker serves: what tokenizers are, what they make of a text, verification."""
