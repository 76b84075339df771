"""A Hugging Face hub on loopback that takes uploads: create, preupload, LFS and commit, as huggingface_hub sends them.

with UploadHub() as hub:
    … with HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN and HF_HUB_DISABLE_XET=1 …
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_0123456789abcdefghij"
LFS_SUFFIXES = (".safetensors", "tokenizer.json")
COMMIT = "1" * 40


class UploadHub:
    """The hub, in a thread: repositories by kind and name, and the contents of large files by SHA-256."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.received: list[str] = []
        """SHA-256 of each large file that came in, in order, as often as it came."""
        self.commits = 0
        self.validated = 0
        self.stall_at_bytes: int | None = None
        """A large file of at least so many bytes is not answered, until `go_on` is set."""
        self.stalled, self.go_on = threading.Event(), threading.Event()

    def __enter__(self) -> "UploadHub":
        hub = self

        class Handler(_Handler):
            HUB = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    HUB: UploadHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        kind, name = self._repository(self.path.removeprefix("/api/"))
        if not self._may_write():
            return
        if f"{kind}/{name}" not in self.HUB.repositories:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return
        self._answer({"_id": "1", "id": name, "sha": COMMIT, "private": self.HUB.private[f"{kind}/{name}"],
                      "tags": [], "siblings": [], "downloads": 0, "likes": 0})  # fmt: skip

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            self.HUB.validated += 1
            self._answer({"errors": [], "warnings": []})
        elif not self._may_write():
            return
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/objects/batch"):
            self._batch(json.loads(body))
        elif "/preupload/" in path:
            self._preupload(*self._repository(path.removeprefix("/api/")), json.loads(body))
        elif "/commit/" in path:
            self._commit(*self._repository(path.removeprefix("/api/")), body)
        else:
            self._answer({"error": f"no {path}"}, 404)

    def do_PUT(self) -> None:
        body, oid = self._body(), self.path.rpartition("/")[2]
        stall = self.HUB.stall_at_bytes
        if stall is not None and len(body) >= stall:
            self.HUB.stalled.set()
            self.HUB.go_on.wait(60)
            return
        assert hashlib.sha256(body).hexdigest() == oid
        self.HUB.objects[oid] = body
        self.HUB.received.append(oid)
        self._answer({})

    def _create(self, asked: dict[str, Any]) -> None:
        kind, name = f"{asked['type']}s", f"{asked['organization']}/{asked['name']}"
        status = 409 if f"{kind}/{name}" in self.HUB.repositories else 200
        self.HUB.repositories.setdefault(f"{kind}/{name}", {})
        self.HUB.private.setdefault(f"{kind}/{name}", asked["visibility"] == "private")
        self._answer({"url": f"{self.HUB.url}/{name}", "name": name}, status)

    def _preupload(self, kind: str, name: str, asked: dict[str, Any]) -> None:
        there = self.HUB.repositories[f"{kind}/{name}"]
        found = []
        for file in asked["files"]:
            mode = "lfs" if file["path"].endswith(LFS_SUFFIXES) else "regular"
            oid = _oid(there[file["path"]], mode) if file["path"] in there else None
            found.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._answer({"files": found})

    def _batch(self, asked: dict[str, Any]) -> None:
        """Only what is not there gets an address to go to."""
        objects = [
            o
            if o["oid"] in self.HUB.objects
            else o | {"actions": {"upload": {"href": f"{self.HUB.url}/lfs/{o['oid']}"}}}
            for o in asked["objects"]
        ]
        self._answer({"transfer": "basic", "objects": objects})

    def _commit(self, kind: str, name: str, body: bytes) -> None:
        there = self.HUB.repositories[f"{kind}/{name}"]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                there[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                there[value["path"]] = self.HUB.objects[value["oid"]]
        self.HUB.commits += 1
        self._answer({"success": True, "commitOid": COMMIT, "commitUrl": f"{self.HUB.url}/{name}/commit/{COMMIT}"})

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer({"error": "You do not have the rights"}, 403)
        return False

    def _repository(self, path: str) -> tuple[str, str]:
        kind, owner, name, *_ = path.partition("?")[0].split("/")
        return kind, f"{owner}/{name}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, found: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(found).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _oid(body: bytes, mode: str) -> str:
    """How git names a blob, or LFS its object."""
    return (
        hashlib.sha256(body).hexdigest() if mode == "lfs" else hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
    )
