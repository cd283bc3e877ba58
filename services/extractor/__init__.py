"""The extractor: what models compute on the way, for every token of a tokenization, as files that SAE tools open.

`server` owns the records (Postgres) and imports no torch, `worker` does the tasks.
"""
