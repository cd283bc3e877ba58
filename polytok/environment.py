"""The environment variables of Polytok, so that a misspelt one is an error instead of having no effect."""

import difflib
import os
import re
from collections.abc import Mapping

from polytok import errors

_PREFIX = "POLYTOK_"
_CUTOFF = 0.85
"""Similarity from which a name counts as misspelt. Others may belong to another version, or to another program."""
_SERVICE_LINK = re.compile(r"POLYTOK_\w+_(SERVICE_HOST|SERVICE_PORT\w*|PORT(_\d+_(TCP|UDP)\w*)?)")
"""What Kubernetes sets in every pod for a Service whose name begins with `polytok-`."""

_NAMES = """
CACHE
CATALOG_ADDRESS
CATALOG_CHECK_PATHS
CATALOG_GARBAGE_COLLECTION_SECONDS
CATALOG_GARBAGE_GRACE_SECONDS
CATALOG_REQUEST_HOURS
CATALOG_SHARD_BYTES
CATALOG_UPLOAD_BYTES
CHILD_FD
CHILD_MEMORY_BYTES
CHILD_PARENT
CHILD_SERVICE
DATABASE_POOL_SIZE
DATABASE_URL
EXTRACTOR_ADDRESS
EXTRACTOR_ESTIMATE_SECONDS
EXTRACTOR_GARBAGE_COLLECTION_SECONDS
EXTRACTOR_GARBAGE_GRACE_SECONDS
EXTRACTOR_HOOKS_SECONDS
EXTRACTOR_RANGE_BYTES
EXTRACTOR_RENEW_SECONDS
EXTRACTOR_REQUEST_HOURS
GRPC_DRAIN_SECONDS
GRPC_HOST
GRPC_PORT
GRPC_TLS_CERTIFICATE
GRPC_TLS_CLIENT_CA
GRPC_TLS_KEY
HOME
JOBS_BACKOFF_SECONDS
JOBS_DISPATCH_ACK_SECONDS
JOBS_LEASE_TTL_SECONDS
JOBS_MAX_ATTEMPTS
JOBS_RECONCILE_SECONDS
JOBS_REDISPATCH_SECONDS
LOG_FORMAT
LOG_LEVEL
METRICS_HOST
METRICS_PORT
NATS_NAMESPACE
NATS_URL
RANKS_LAUNCHER
RANKS_NUMBER
RANKS_PARENT
READY_FILE
SOURCE_ALLOWLIST
STORAGE_CACHE
STORAGE_CACHE_BYTES
STORAGE_ROOT
TLS_CA
TLS_CERTIFICATE
TLS_KEY
TOKENIZER_ADDRESS
TOKENIZER_CACHED
TOKENIZER_ENGINE
TOKENIZER_PATIENCE_BYTES
TOKENIZER_PROOFS
TOKENIZER_THREADS
TRACEBACK
TRAINER_ADDRESS
TRAINER_DEVICE
TRAINER_GARBAGE_COLLECTION_SECONDS
TRAINER_GARBAGE_GRACE_SECONDS
TRAINER_HOOKS_SECONDS
TRAINER_KEPT_CHECKPOINTS
TRAINER_PROCESSES
TRAINER_REQUEST_HOURS
TRAINER_THREADS
WORKER_IDLE_SECONDS
WORKER_MEMORY_BYTES
WORKER_NAME
WORKER_PAUSE_SECONDS
"""
VARIABLES = frozenset(_PREFIX + name for name in _NAMES.split())
"""All variables that services, command line and client read."""


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Raise InvalidArgument for a variable whose name is close to that of another."""
    for name in sorted(environment):
        if not name.startswith(_PREFIX) or name in VARIABLES or _SERVICE_LINK.fullmatch(name):
            continue
        # The prefix is the same in all names: it says nothing about how close they are.
        known = [each.removeprefix(_PREFIX) for each in VARIABLES]
        if close := difflib.get_close_matches(name.removeprefix(_PREFIX), known, n=1, cutoff=_CUTOFF):
            problem = f"{name} is not a variable of Polytok. Did you mean {_PREFIX}{close[0]}?"
            raise errors.InvalidArgument(problem, violations=[errors.FieldViolation(name, problem)])
