"""One training in several processes, each with a device of its own, started by torchrun."""
