"""torchrun, for the processes of one training: `-m services.trainer.sae.distributed.torchrun_main MODULE JOB.json`.

It ends with its parent, and its processes end with it. What torchrun knows of a process that died is written to the
job's folder.
"""

import json
import os
import pathlib
import signal
import sys

from services.jobs import task_process_main

PARENT = "POLYTOK_RANKS_PARENT"
"""The process id of the process that trains."""
LAUNCHER = "POLYTOK_RANKS_LAUNCHER"
"""The process id of this process, for those that it starts."""
PROCESSES = "POLYTOK_RANKS_NUMBER"
"""Number of processes to start."""
DIED = "died.json"
"""In the job's folder: which process died first, and how."""


def main() -> int:
    """Run the processes until all have succeeded or one has failed."""
    task_process_main.exit_with_parent(int(os.environ[PARENT]))
    os.environ[LAUNCHER] = str(os.getpid())
    # Imported after the kernel was asked to end this process with its parent: the imports take seconds.
    from torch.distributed import run  # noqa: PLC0415
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError  # noqa: PLC0415

    module, job = sys.argv[1:]
    started = [f"--nproc-per-node={os.environ[PROCESSES]}", "--standalone", "--local-addr=127.0.0.1"]
    arguments = run.parse_args([*started, "-m", module, job])  # type: ignore[no-untyped-call]
    try:
        run.run(arguments)  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        rank, failure = min(error.failures.items(), key=lambda each: (_follows(each[1].exitcode), each[0]))
        report = json.dumps({"rank": rank, "code": failure.exitcode})
        (pathlib.Path(job).parent / DIED).write_text(report)
        return 1
    return 0


def _follows(code: int) -> int:
    """Rank how likely one end followed from another.

    torchrun ends the rest by SIGTERM, and those that miss a peer fail.
    """
    return 2 if code == -signal.SIGTERM else int(code >= 0)


if __name__ == "__main__":
    sys.exit(main())
