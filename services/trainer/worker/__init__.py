"""The trainer's worker: a process that keeps leases, and a child that trains."""
