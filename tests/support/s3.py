"""An S3 server for tests: moto's, in a process of its own, and the environment in which it is found."""

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

import boto3

from services.embedded import ports


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to use it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "polytok-tests",
            "AWS_SECRET_ACCESS_KEY": "not-a-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def bucket(self, name: str) -> str:
        """Make a bucket; return its name."""
        self.client().create_bucket(Bucket=name)
        return name

    def client(self):
        """A client that is none of ours."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="polytok-tests",
            aws_secret_access_key="not-a-secret",
            region_name="us-east-1",
        )


@contextlib.contextmanager
def running(**environment: str) -> Iterator[Server]:
    """Run a server."""
    port = ports.free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, **environment}
    )
    try:
        _await(f"http://127.0.0.1:{port}/moto-api/", process)
        yield Server(f"http://127.0.0.1:{port}")
    finally:
        process.kill()
        process.wait()


def _await(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
