"""TokenizerService, served by the worker: describes tokenizers, encodes texts, verifies tokenizations."""
