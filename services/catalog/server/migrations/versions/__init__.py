"""The revisions, in order. Each says in `phase` whether it runs before or after new code is rolled out."""
