"""The kinds of tasks that the ingest worker does. Apart from the rest, as the worker itself reads no files."""

PLAN = "ingest.plan"
READ = "ingest.read"
PUBLISH = "ingest.publish"
ALL = (PLAN, READ, PUBLISH)
