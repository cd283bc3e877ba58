"""Jobs, tasks and leases: Postgres is the truth, NATS only the doorbell."""
