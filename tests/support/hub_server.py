"""A Hugging Face hub on loopback: `some/good` with two configurations, `some/script`, `some/gated`, and no other.

It is a plain server of files too: `URL/datasets/some/good/resolve/v1/algebra.jsonl`.

with HubServer() as hub:
    … with HF_ENDPOINT=hub.url …
"""

import asyncio
import hashlib
import io
import threading

import datasets
from aiohttp import web

REVISION, COMMIT = "v1", "0" * 39 + "1"
CARD = """---
configs:
- config_name: algebra
  data_files: [{split: train, path: algebra/train.parquet}, {split: test, path: algebra/test.parquet}]
- config_name: geometry
  data_files: [{split: train, path: geometry/train.parquet}]
---
"""
ROWS = {
    "algebra/train": [{"problem": "1+1?", "answer": "2"}],
    "algebra/test": [{"problem": "1+2?", "answer": "3"}],
    "geometry/train": [{"problem": "How many sides?", "answer": "3"}],
}


class HubServer:
    """The server, in a thread."""

    def __init__(self) -> None:
        self._script = {"script.py": b"import datasets\n"}
        self._files = {"algebra.jsonl": b'{"problem": "1+1?", "answer": "2"}\n'}
        self._files |= {
            "README.md": CARD.encode(),
            **{f"{name}.parquet": _parquet(rows) for name, rows in ROWS.items()},
        }
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/datasets/some/good/resolve/{revision}/{path:.*}", self._file)
        app.router.add_get("/api/datasets/some/good/revision/{revision}", self._listing)
        app.router.add_get("/api/datasets/some/good/tree/{revision}/{path:.*}", self._tree)
        app.router.add_get("/api/datasets/some/script", self._script_listing)
        app.router.add_get("/api/datasets/some/script/revision/{revision:.*}", self._script_listing)
        app.router.add_route("*", "/datasets/some/script/resolve/{revision}/{path:.*}", self._script_file)
        app.router.add_route("*", "/{tail:.*}", _refuse)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0])

    async def _file(self, request: web.Request) -> web.Response:
        body = self._files.get(request.match_info["path"])
        if request.match_info["revision"] not in (REVISION, COMMIT):
            return web.Response(status=404, headers={"X-Error-Code": "RevisionNotFound"})
        if body is None:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        return web.Response(body=body, headers={"ETag": f'"{_oid(body)}"', "X-Repo-Commit": COMMIT})

    async def _listing(self, _request: web.Request) -> web.Response:
        return _described("some/good", self._files)

    async def _script_listing(self, _request: web.Request) -> web.Response:
        return _described("some/script", self._script)

    async def _script_file(self, request: web.Request) -> web.Response:
        if (body := self._script.get(request.match_info["path"])) is None:
            return web.Response(status=404, headers={"X-Error-Code": "EntryNotFound"})
        return web.Response(body=body, headers={"ETag": f'"{_oid(body)}"', "X-Repo-Commit": COMMIT})

    async def _tree(self, request: web.Request) -> web.Response:
        below = f"{request.match_info['path']}/"
        return web.json_response(
            [{"type": "file", "oid": _oid(body), "size": len(body), "path": name}
             for name, body in self._files.items() if name.startswith(below)]
        )  # fmt: skip


async def _refuse(request: web.Request) -> web.Response:
    if "gated" in request.path:
        headers = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to dataset is restricted"}
        return web.json_response({"error": "Access to dataset is restricted"}, status=403, headers=headers)
    headers = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
    return web.json_response({"error": "Repository not found"}, status=404, headers=headers)


def _described(name: str, files: dict[str, bytes]) -> web.Response:
    return web.json_response({"_id": "1", "id": name, "sha": COMMIT, "private": False, "gated": False,
                              "disabled": False, "downloads": 0, "likes": 0, "tags": [],
                              "siblings": [{"rfilename": file} for file in files]})  # fmt: skip


def _oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()


def _parquet(rows: list[dict]) -> bytes:
    written = io.BytesIO()
    datasets.Dataset.from_list(rows).to_parquet(written)
    return written.getvalue()
