"""Postgres, NATS and all services on one machine, from pip alone."""
