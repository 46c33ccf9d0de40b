"""The part of the Hub that uploads and downloads models, on this machine: files are kept in memory, one commit after
another, and every repository is found by its name. Weights go the way of large files; the token `hf_reader` may not
write, and `hf_unknown` is none."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

# name of a repository: path of a file: content
Repositories = dict[str, dict[str, bytes]]


@dataclass
class LargeFiles:
    """Contents by SHA-256; `breaks` once: of the first push only the first of them arrives; `private` repositories."""

    contents: dict[str, bytes] = field(default_factory=dict)
    breaks: bool = False
    private: set[str] = field(default_factory=set)
    pushes: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def receive(self, oid: str, content: bytes) -> bool:
        """Whether it has arrived."""
        with self.lock:
            if self.breaks and self.pushes == 1 and self.contents:
                return False
            assert oid not in self.contents, "it is here already"
            self.contents[oid] = content
            return True


class Hub(BaseHTTPRequestHandler):
    """One request; a subclass has the `repositories` and the large files."""

    protocol_version = "HTTP/1.1"
    repositories: Repositories
    large: LargeFiles

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
        refused = {"Bearer hf_reader": 403, "Bearer hf_unknown": 401}.get(self.headers.get("Authorization", ""))
        match self.parts():
            case _ if refused:
                self.send(refused, {"error": "not you"})
            case ["api", "repos", "create"]:
                asked = json.loads(body)
                self.large.pushes += 1
                name = "/".join(filter(None, [asked.get("organization"), asked["name"]]))
                if name not in self.repositories and asked.get("visibility") == "private":
                    self.large.private.add(name)
                self.repositories.setdefault(name, {})
                self.send(200, {"url": f"http://{self.headers['Host']}/{name}", "name": name, "id": name})
            case ["api", "validate-yaml"]:
                self.send(200, {"errors": [], "warnings": []})
            case ["api", "models", owner, name, "preupload", _]:
                paths = [file["path"] for file in json.loads(body)["files"]]
                modes = {path: "lfs" if path.endswith(".safetensors") else "regular" for path in paths}
                files = [{"path": path, "uploadMode": modes[path], "shouldIgnore": False} for path in paths]
                self.send(200, {"files": files})
            case [owner, name, "info", "lfs", "objects", "batch"]:
                self.send(200, {"transfer": "basic", "objects": list(map(self.upload, json.loads(body)["objects"]))})
            case ["api", "models", owner, name, "commit", _]:
                self.commit(f"{owner}/{name}", [json.loads(line) for line in body.splitlines() if line])
            case _:
                self.send(404, {"error": self.path})

    def upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Where a large file goes; nowhere when it is here."""
        if asked["oid"] in self.large.contents:
            return asked
        return asked | {"actions": {"upload": {"href": f"http://{self.headers['Host']}/large/{asked['oid']}"}}}

    def do_PUT(self) -> None:
        """Take a large file, or break the connection."""
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.large.receive(self.parts()[-1], content):
            self.send(200, {})
        else:
            self.close_connection = True

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        """Keep the files of a commit."""
        for line in lines:
            if line["key"] == "file":
                self.repositories[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                self.repositories[name][line["value"]["path"]] = self.large.contents[line["value"]["oid"]]
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
        told = {"id": name, "modelId": name, "sha": self.sha(name), "siblings": files, "tags": []}
        self.send(200, told | {"private": name in self.large.private})

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
def loopback_hub(large: LargeFiles | None = None) -> Iterator[tuple[str, Repositories]]:
    """Its address, and the repositories that were made there."""
    repositories: Repositories = {}
    handler = type("ThisHub", (Hub,), {"repositories": repositories, "large": large or LargeFiles()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", repositories
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
