"""A model's tokenizer and configuration: found, loaded, described."""
