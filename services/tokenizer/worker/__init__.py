"""The tokenizer's worker: a process that holds leases, and a task process that loads tokenizers and runs the tasks."""
