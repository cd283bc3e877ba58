"""Calls per second of ResolveTokenization, against a bare grpc.aio server that returns the same bytes from memory.

The load comes from a process of its own, `python -m benchmarks.resolve HOST:PORT METHOD REQUEST`, which prints its
latencies as JSON; both servers get the same load.
"""

import asyncio
import base64
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc

CALLERS = 16
SECONDS = 5.0
WARM_UP = 1.0


@dataclasses.dataclass
class Load:
    """The results of a load."""

    calls_per_second: float
    latencies: list[float]
    """Seconds of each call."""


def measure(address: str, method: str, request: bytes) -> Load:
    """Load one method from another process."""
    command = [sys.executable, "-m", "benchmarks.resolve", address, method, base64.b64encode(request).decode()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    return Load(found["calls_per_second"], found["latencies"])


async def _load(address: str, method: str, request: bytes) -> dict[str, Any]:
    async with grpc.aio.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(method)
        began = time.perf_counter()
        latencies: list[float] = []

        async def caller() -> None:
            while (start := time.perf_counter()) < began + WARM_UP + SECONDS:
                await call(request, timeout=5)
                if start > began + WARM_UP:
                    latencies.append(time.perf_counter() - start)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return {"calls_per_second": len(latencies) / SECONDS, "latencies": latencies}


@contextlib.contextmanager
def bare_server(answer: bytes) -> Iterator[str]:
    """Yield a grpc.aio server, in a process of its own, that answers every call with the same bytes."""
    command = [sys.executable, "-m", "benchmarks.resolve", "serve", base64.b64encode(answer).decode()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.terminate()
        process.communicate()


class _Answer(grpc.GenericRpcHandler):
    def __init__(self, answer: bytes) -> None:
        async def handle(_request: bytes, _context: Any) -> bytes:
            return answer

        self._handler: Any = grpc.unary_unary_rpc_method_handler(handle)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler


async def _serve(answer: bytes) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Answer(answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(_serve(base64.b64decode(sys.argv[2])))
    else:
        print(json.dumps(asyncio.run(_load(sys.argv[1], sys.argv[2], base64.b64decode(sys.argv[3])))))
