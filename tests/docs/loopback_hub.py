"""The part of the Hub that uploads and downloads models, on this machine: files are kept in memory, one commit after
another, and every repository is found by its name."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

# name of a repository: path of a file: content
Repositories = dict[str, dict[str, bytes]]


class Hub(BaseHTTPRequestHandler):
    """One request; a subclass has the `repositories`."""

    protocol_version = "HTTP/1.1"
    repositories: Repositories

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def send(self, status: int, content: Any, **headers: str) -> None:
        """Bytes as they are, anything else as JSON."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def parts(self) -> list[str]:
        """Of the path."""
        return unquote(urlsplit(self.path).path).strip("/").split("/")

    def do_POST(self) -> None:
        """Create, prepare and commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match self.parts():
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                self.repositories.setdefault(name, {})
                self.send(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
            case ["api", "validate-yaml"]:
                self.send(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                modes = {"uploadMode": "regular", "shouldIgnore": False}
                self.send(200, {"files": [{"path": file["path"], **modes} for file in json.loads(body)["files"]]})
            case ["api", "models", owner, name, "commit", _]:
                self.commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines() if line])
            case _:
                self.send(404, {"error": self.path})

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Keep the files of a commit."""
        for line in lines:
            if line["key"] == "file":
                self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        url = f"http://{self.headers['Host']}/{name}/commit/{self.sha(name)}"
        self.send(200, {"success": True, "commitOid": self.sha(name), "commitUrl": url})

    def do_GET(self) -> None:
        """Describe a repository, list its files, or give one."""
        match self.parts():
            case ["api", "models", owner, name, "tree", _, *folder]:
                self.list_files(f"{owner}/{name}", "/".join([*folder, ""]))
            case ["api", "models", owner, name, *rest] if not rest or rest[0] == "revision":
                self.describe(f"{owner}/{name}")
            case [owner, name, "resolve", _, *path]:
                self.resolve(f"{owner}/{name}", "/".join(path))
            case _:
                self.send(404, {"error": self.path})

    do_HEAD = do_GET

    def describe(self, name: str) -> None:
        """What `model_info` asks for."""
        if name not in self.repositories:
            self.send(404, {"error": name}, X_Error_Code="RepoNotFound")
            return
        files = [{"rfilename": path} for path in self.repositories[name]]
        self.send(200, {"id": name, "modelId": name, "sha": self.sha(name), "siblings": files, "tags": []})

    def list_files(self, name: str, folder: str) -> None:
        """Those below a folder; one without files is none."""
        files = self.repositories.get(name, {})
        found = [path for path in files if path.startswith(folder.lstrip("/"))]
        if not found:
            self.send(404, {"error": folder}, X_Error_Code="EntryNotFound")
            return
        listed = [{"path": path, "size": len(files[path]), "oid": self.etag(files[path])} for path in found]
        self.send(200, [{"type": "file", **file} for file in listed])

    def resolve(self, name: str, path: str) -> None:
        """A file, or that there is none."""
        if name not in self.repositories:
            self.send(404, {"error": name}, X_Error_Code="RepoNotFound")
        elif path not in self.repositories[name]:
            self.send(404, {"error": path}, X_Error_Code="EntryNotFound", X_Repo_Commit=self.sha(name))
        else:
            content = self.repositories[name][path]
            self.send(200, content, X_Repo_Commit=self.sha(name), ETag=f'"{self.etag(content)}"')

    def sha(self, name: str) -> str:
        """Forty digits that change with the files."""
        files = self.repositories[name]
        return self.etag(b"".join(path.encode() + files[path] for path in sorted(files)))

    @staticmethod
    def etag(content: bytes) -> str:
        """Forty digits that change with the content."""
        return hashlib.sha256(content).hexdigest()[:40]


@contextmanager
def loopback_hub() -> Iterator[tuple[str, Repositories]]:
    """Its address, and the repositories that were made there."""
    repositories: Repositories = {}
    handler = type("ThisHub", (Hub,), {"repositories": repositories})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
