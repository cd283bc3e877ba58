"""The trainer's server: owns trainings, their metrics and checkpoints (Postgres), and their jobs. Imports no torch."""
