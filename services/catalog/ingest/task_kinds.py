"""The task kinds of the ingest worker. In a module of their own, because the worker itself reads no files."""

PLAN = "ingest.plan"
READ = "ingest.read"
PUBLISH = "ingest.publish"
ALL = (PLAN, READ, PUBLISH)
