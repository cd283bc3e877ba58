"""A model's tokenizer and configuration: located, loaded, described."""
