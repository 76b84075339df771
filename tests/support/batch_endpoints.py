"""The files and batches of an OpenAI-style server, in memory: upload, create, poll, download."""

import json
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl


class BatchAnswer(NamedTuple):
    """A response."""

    status: int
    body: bytes
    content_type: str = "application/json"


Around = Callable[[str, str, Callable[[], BatchAnswer | None]], BatchAnswer | None]


class Batches:
    """`line` answers one request of a batch: its status and body. A batch is done after `polls` looks at it."""

    def __init__(self, line: Callable[[dict], tuple[int, dict]]) -> None:
        self._line = line
        self.polls = 2
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict] = {}
        self.fails: Callable[[dict], str | None] = lambda _: None
        """Ends a batch as "failed", "expired" or "cancelled" where it says so."""
        self.error = {"code": "invalid", "message": "line 1 is no request"}
        """What a batch that failed says."""
        self.around: Around = lambda _method, _path, work: work()
        """Stands between each request and the work on it: it may come before, come after, or say something else."""
        self.unlisted: set[str] = set()
        """Batches that are not in the list yet."""
        self.page_size = 100

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> BatchAnswer | None:
        """The answer to a request for one of these paths; None for any other."""
        if not path.startswith(("/files", "/batches")):
            return None
        path, _, query = path.partition("?")
        return self.around(method, path, lambda: self._work(method, path, query, headers, body))

    def _work(self, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> BatchAnswer | None:
        if (method, path) == ("POST", "/files"):
            return self._upload(headers["content-type"], body)
        if (method, path) == ("POST", "/batches"):
            return self.create(json.loads(body))
        if (method, path) == ("GET", "/batches"):
            return self._list(dict(parse_qsl(query)))
        if method == "GET" and (found := re.fullmatch(r"/batches/([\w-]+)", path)):
            return self._poll(found[1])
        if method == "GET" and (found := re.fullmatch(r"/files/([\w-]+)/content", path)):
            return BatchAnswer(200, self.files[found[1]], "application/octet-stream")
        return None

    def _upload(self, content_type: str, body: bytes) -> BatchAnswer:
        boundary = re.search(r"boundary=(\S+)", content_type)[1].encode()
        parts = [p for p in body.split(b"--" + boundary) if b"filename=" in p]
        content = parts[0].split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n")
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return _json({"id": name, "object": "file", "bytes": len(content), "purpose": "batch", "filename": "b.jsonl",
                      "created_at": 0, "status": "processed"})  # fmt: skip

    def create(self, fields: dict) -> BatchAnswer:
        """Create a batch."""
        name = f"batch-{len(self.batches)}"
        lines = self.files[fields["input_file_id"]].splitlines()
        self.batches[name] = {
            "id": name, "object": "batch", "endpoint": fields["endpoint"], "input_file_id": fields["input_file_id"],
            "completion_window": fields["completion_window"], "status": "in_progress", "created_at": 0,
            "metadata": fields.get("metadata"), "polled": 0,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        return _json(self.batches[name])

    def _list(self, query: dict[str, str]) -> BatchAnswer:
        """One page of the list, the newest first."""
        names = [name for name in self.batches if name not in self.unlisted][::-1]
        start = names.index(query["after"]) + 1 if "after" in query else 0
        stop = start + min(self.page_size, int(query["limit"]))
        page = [self.batches[name] for name in names[start:stop]]
        return _json({"object": "list", "data": page, "has_more": stop < len(names)})

    def _poll(self, name: str) -> BatchAnswer:
        if name not in self.batches:
            return BatchAnswer(404, b'{"error": {"message": "No batch found with that id"}}')
        batch = self.batches[name]
        batch["polled"] += 1
        if batch["status"] == "in_progress" and batch["polled"] >= self.polls:
            self._finish(batch)
        return _json(batch)

    def _finish(self, batch: dict) -> None:
        """Answer the lines, in another order than they came in; one that was broken off has answered the first half.

        The error file of an expired batch tells of the other half, that of a cancelled one does not.
        """
        status = self.fails(batch) or "completed"
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        half = rows[: len(rows) // 2]
        done = {"completed": rows, "expired": half, "cancelled": half, "failed": []}[status]
        if status == "failed":
            batch["errors"] = {"object": "list", "data": [self.error]}
        good, bad = [], []
        for row in reversed(done):
            code, body = self._line(row["body"])
            told = {"id": "r", "custom_id": row["custom_id"], "response": {"status_code": code, "body": body}}
            (good if code == 200 else bad).append(json.dumps(told | {"error": None}))
        for row in rows[len(done) :] if status == "expired" else []:
            error = {"code": "batch_expired", "message": "This request could not be executed before the end."}
            bad.append(json.dumps({"id": "r", "custom_id": row["custom_id"], "response": None, "error": error}))
        for field, told in (("output_file_id", good), ("error_file_id", bad)):
            if told:
                name = f"file-{len(self.files)}"
                self.files[name] = "".join(line + "\n" for line in told).encode()
                batch[field] = name
        batch["request_counts"] |= {"completed": len(good), "failed": len(bad)}
        batch["status"] = status


def _json(fields: object) -> BatchAnswer:
    return BatchAnswer(200, json.dumps(fields).encode())
