"""Evaluate autoencoders on held-out sequences, in float64 and with every formula named."""
