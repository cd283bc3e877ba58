"""The extractor's worker: a process that holds leases, and a task process that runs models and writes activations."""
