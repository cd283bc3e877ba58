"""The trainer's worker: a process that holds leases, and a task process that trains."""
