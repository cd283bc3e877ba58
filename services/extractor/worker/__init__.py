"""The extractor's worker: a process that keeps leases, and a child that runs models and writes their activations."""
