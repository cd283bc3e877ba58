"""Stubs of the tokenizer's contracts."""
