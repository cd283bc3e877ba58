"""A task process that does what the payload says."""

import os
import pathlib
import signal
import sys
import time

from google.protobuf import any_pb2, struct_pb2
from google.protobuf.message import Message

from polytok import errors
from services.jobs import task_process_main


def make(payload: any_pb2.Any, context: task_process_main.TaskContext) -> Message:
    order = struct_pb2.Struct()
    payload.Unpack(order)
    facts = dict(order)
    result = struct_pb2.Struct()
    answer = {"pid": os.getpid(), "tag": context.tag, "resumed": context.resume_point.decode()}
    answer |= ACTIONS[str(facts["do"])](facts, context) or {}
    result.update(answer)
    return result


def echo(facts, context):
    return {"said": facts.get("say", "")}


def work(facts, context):
    """Work for some seconds, the first time if asked for, and report it every few milliseconds."""
    if "once" in facts and not first_time(facts["once"]):
        return
    steps = int(facts["seconds"] * 100)
    for step in range(steps):
        time.sleep(0.01)
        context.report(step + 1, steps, f"step {step + 1}".encode() if facts.get("resume") else b"")


def meet(facts, context):
    """Wait until so many tasks are in the folder."""
    folder = pathlib.Path(str(facts["folder"]))
    (folder / str(facts["name"])).touch()
    while len(list(folder.iterdir())) < facts["number"]:
        time.sleep(0.01)


def climb(facts, context):
    """Go up step by step from where it was left, record each step, and stop when a pause is requested."""
    first = int(context.resume_point or b"0")
    last = int(facts["steps"])
    for step in range(first + 1, last + 1):
        if context.pause_requested.is_set():
            raise task_process_main.TaskPaused
        if step == facts.get("kill_at") and first_time(facts["once"]):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        found = struct_pb2.Struct()
        found.update({"step": step})
        context.record(found)
        if step % 10 == 0 or context.pause_requested.is_set():
            context.report(step, last, str(step).encode())
    return {"climbed": last - first, "kept": context.saved_resume_point.decode()}


def fall(facts, context):
    """Go up by ten steps, and die once the owner knows of it, until all are done."""
    step = int(context.resume_point or b"0") + 10
    if step <= int(facts["steps"]):
        found = struct_pb2.Struct()
        found.update({"step": step})
        context.record(found)
        context.report(step, int(facts["steps"]), str(step).encode())
        while context.saved_resume_point != str(step).encode():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


def kill(facts, context):
    """Dy, once or always."""
    if not facts.get("once") or first_time(facts["once"]):
        os.kill(os.getpid(), signal.SIGKILL)


def leave(facts, context):
    os._exit(int(facts["code"]))


def refuse(facts, context):
    raise errors.InvalidArgument("The column is not there; choose another.", reason="COLUMN_NOT_FOUND")


def fail_as(facts, context):
    kind = getattr(errors, str(facts["kind"]))
    raise kind(
        "It is so.",
        reason="WRONG_STATE",
        metadata={"resource": "x"},
        violations=[errors.FieldViolation("a.b", "is wrong")],
        retryable=not kind.default_retryable,
    )


def stumble(facts, context):
    if first_time(facts["once"]):
        raise errors.Unavailable("The source does not answer.", reason="STORAGE_FAILED")


def crash(facts, context):
    raise ValueError("nobody expected this")


def full(facts, context):
    raise OSError(28, "No space left on device")


def eat(facts, context):
    return {"size": len(bytearray(int(facts["size"])))}


def shout(facts, context):
    print("x" * 200_000, flush=True)
    print("y" * 200_000, file=sys.stderr, flush=True)


def spawn(facts, context):
    """Start a process of its own, and wait for it."""
    import subprocess

    process = subprocess.Popen(["sleep", "600"])
    pathlib.Path(facts["path"]).write_text(str(process.pid))
    process.wait()


def first_time(path):
    try:
        pathlib.Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


ACTIONS = {
    f.__name__: f
    for f in (echo, work, meet, climb, fall, kill, leave, refuse, fail_as, stumble, crash, full, eat, shout, spawn)
}

if __name__ == "__main__":
    task_process_main.serve({"test.run": make}, warm=lambda: None)
