"""What the job library counts."""

from services.runtime.telemetry import metrics

unfinished = metrics.gauge("jobs_tasks", "Tasks that wait for a worker (READY) or run", ("kind", "state"))
dispatched = metrics.counter("jobs_dispatched", "Task messages published to the work queue")
redispatched = metrics.counter("jobs_redispatched", "Tasks dispatched again because their message was lost")
queue_recreated = metrics.counter("jobs_queue_recreated", "Times the work queue was made again as it did not work")
overdue = metrics.counter("worker_overdue", "Tasks that a worker got from their owner, as the queue did not give them")
leases_expired = metrics.counter("jobs_leases_expired", "Leases that ran out without a word from the worker")
advisories = metrics.counter("jobs_advisories", "What JetStream told about the queue", ("what",))
garbage = metrics.counter("worker_garbage", "Messages on the queue that no service of ours wrote")
attempts = metrics.histogram("worker_attempt_seconds", "Time an attempt took, by how it ended", ("kind", "outcome"))
task_processes = metrics.counter("worker_task_processes", "Child processes started")
