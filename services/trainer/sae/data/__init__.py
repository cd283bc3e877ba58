"""Sources of activations, the activation buffer, and prefetching."""
