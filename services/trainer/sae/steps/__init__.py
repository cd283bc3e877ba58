"""One optimiser step of one autoencoder: its protocol, the reference of SAELens, and faster equivalents."""
