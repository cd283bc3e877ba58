"""Where batches come from: sources of activations, the mixing buffer, and what is read ahead of the step."""
