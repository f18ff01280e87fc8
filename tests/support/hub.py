"""A hub on localhost that serves directories as repositories, enough of it for ``snapshot_download``.

It keeps no state but the list of files it was asked for, so that a test can say what was downloaded.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40


@dataclass
class Hub:
    """``repositories``: id -> directory. ``downloads``: the files that were sent, in order."""

    url: str
    repositories: dict[str, Path]
    downloads: list[str] = field(default_factory=list)


@contextmanager
def serve_hub(repositories: dict[str, Path]) -> Iterator[Hub]:
    """Serve ``repositories`` at revision ``main`` (commit ``COMMIT``); any other id or revision is not found."""
    hub = Hub("", repositories)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr."""

        def _answer(self, *, body: bool) -> None:
            parts = self.path.split("?")[0].strip("/").split("/")
            api = parts[:2] == ["api", "models"]
            parts = parts[2:] if api else parts
            root = hub.repositories.get("/".join(parts[:2]))
            kind, revision, name = (parts[2:3] or [""])[0], (parts[3:4] or ["main"])[0], "/".join(parts[4:])
            if root is None:
                self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)
            elif revision not in ("main", COMMIT):
                self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)
            elif api:
                self._send(200, json.dumps(self._listing(root, kind, parts)).encode(), {}, body=body)
            else:
                data = (root / name).read_bytes()
                if body:
                    hub.downloads.append(name)
                headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
                self._send(200, data, headers, body=body)

        def _listing(self, root: Path, kind: str, parts: list[str]) -> object:
            files = sorted(path for path in root.rglob("*") if path.is_file())
            names = [path.relative_to(root).as_posix() for path in files]
            if kind == "tree":
                sizes = [path.stat().st_size for path in files]
                return [
                    {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
                    for name, size in zip(names, sizes, strict=True)
                ]
            return {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}

        def _send(self, status: int, data: bytes, headers: dict[str, str], *, body: bool) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
