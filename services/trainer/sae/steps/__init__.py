"""One optimiser step of one autoencoder: its protocol, sae-lens's own way, and faster ways of equal result."""
