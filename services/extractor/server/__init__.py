"""The extractor's server: owns extractions (Postgres) and their jobs. Imports no torch."""
