"""Metrics of the job library."""

from services.runtime.telemetry import metrics

unfinished = metrics.gauge("jobs_tasks", "Tasks that wait for a worker (READY) or are running", ("kind", "state"))
dispatched = metrics.counter("jobs_dispatched", "Task messages published to the work queue")
redispatched = metrics.counter("jobs_redispatched", "Tasks dispatched again because their message was lost")
queue_recreated = metrics.counter("jobs_queue_recreated", "Times the work queue was recreated because it did not work")
overdue = metrics.counter("worker_overdue", "Tasks that a worker got from their owner instead of the queue")
leases_expired = metrics.counter("jobs_leases_expired", "Leases that expired without a report from the worker")
advisories = metrics.counter("jobs_advisories", "JetStream advisories about the work queue", ("what",))
garbage = metrics.counter("worker_garbage", "Invalid messages on the work queue")
attempts = metrics.histogram("worker_attempt_seconds", "Duration of an attempt, by outcome", ("kind", "outcome"))
task_processes = metrics.counter("worker_task_processes", "Task processes started")
