"""Trains sparse autoencoders on the activations of a model that reads a tokenization.

`server` owns the records (Postgres) and imports no torch, `worker` does the tasks, and `sae` is the training library.
"""
