"""The tokenizer's worker: a process that keeps leases, and a child that loads tokenizers and does the tasks."""
