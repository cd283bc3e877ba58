"""A Hugging Face hub of one process: what `create_repo` and `create_commit` speak over HTTP, files kept in a folder."""

import base64
import hashlib
import http.server
import json
import pathlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Hub(http.server.ThreadingHTTPServer):
    """Weights go to large file storage, all else comes within the commit; only one token may write."""

    TOKEN = "hf_allowed"

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.commits: list[dict] = []
        self.created: list[dict] = []
        self.large: dict[str, bytes] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("authorization") != f"Bearer {Hub.TOKEN}":
            self._answer({"error": "not allowed"}, 403)
        elif self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._answer({"url": f"{self.server.endpoint}/owner/saes", "name": "owner/saes"})
        elif self.path == "/api/validate-yaml":
            card = json.loads(body)["content"]
            self._answer({"errors": [] if card.startswith("---\n") else [{"message": "no metadata"}], "warnings": []})
        elif self.path == "/api/models/owner/saes/preupload/main":
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
            files = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self._answer({"files": files})
        elif self.path == "/owner/saes.git/info/lfs/objects/batch":
            objects = [
                each | {"actions": {"upload": {"href": f"{self.server.endpoint}/put/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif self.path.startswith("/api/models/owner/saes/commit/main"):
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._answer({"error": f"unexpected {self.path}"}, 404)

    def do_PUT(self) -> None:
        body = self._body()
        self.server.large[hashlib.sha256(body).hexdigest()] = body
        self._answer({})

    def _commit(self, lines: list[dict]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self._keep(value["path"], base64.b64decode(value["content"]))
            elif line["key"] == "lfsFile":
                self._keep(value["path"], self.server.large[value["oid"]])
        self.server.commits.append(lines[0]["value"])
        url = f"{self.server.endpoint}/owner/saes/commit/1"
        self._answer({"success": True, "commitOid": "1", "commitUrl": url})

    def _keep(self, path: str, content: bytes) -> None:
        target = self.server.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        found = b""
        while size := int(self.rfile.readline(), 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def _answer(self, document: dict, status: int = 200) -> None:
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def running(folder: pathlib.Path) -> Iterator[Hub]:
    """Serve a hub whose repository is kept in a folder."""
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
