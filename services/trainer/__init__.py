"""Trains sparse autoencoders on the activations of a model that reads a tokenization."""
