"""Jobs: tasks with leases in Postgres, dispatched on NATS, run in child processes. Knows no domain.

A service that owns jobs combines `tables` in its own schema, a `store` with one handler per job kind, `api` on its gRPC
server, and the `background_tasks`. A worker runs `worker`, and its task process runs `task_process_main`.
"""
