"""One optimiser step of one autoencoder: the seam, sae-lens's own way through it, and faster ways of equal result."""
