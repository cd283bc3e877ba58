"""What jobs mean to the catalog's records: a handler for each kind of job.

Each method runs in the transaction of the job's own change. The record is found by its job, so that a job that was
replaced changes nothing.
"""
