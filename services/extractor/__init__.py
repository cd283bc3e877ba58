"""Owns extractions: a tokenization and a model become files of activations."""
