"""Jobs: tasks with leases in Postgres, dispatched on NATS, run in child processes. Knows no domain (DESIGN §2).

A service that owns jobs puts these together: `tables` in its own schema, a `store` with one handler for each job
kind, `service` on its gRPC server, and the side tasks of `engine`. A worker runs `worker`, and its child process
`child`.
"""
