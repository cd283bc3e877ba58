"""One training in several processes, each with its own device, started by torchrun."""
