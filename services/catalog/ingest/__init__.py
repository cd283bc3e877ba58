"""The ingest worker: reads files and hub repositories once, into Arrow shards."""
