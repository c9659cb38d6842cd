"""A small Hugging Face Hub on loopback, which speaks what `huggingface_hub` asks for when it pushes and fetches a model.

Files that end in ``.safetensors`` go through Git LFS, as on the real one: batch, upload to a store, verification, and on the
way back a redirect to that store.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote


@dataclass
class Repository:
    """Its commits in order, files by name in each."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return list(self.commits)[-1]


@dataclass
class Hub:
    """Repositories by OWNER/NAME; `tokens` knows the owner of each token, `requests` every line with its Authorization.

    The store of large files has an address of its own.
    """

    url: str = ""
    store_url: str = ""
    tokens: dict[str, str] = field(default_factory=dict)
    repositories: dict[str, Repository] = field(default_factory=dict)
    store: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)


class RefusedError(Exception):
    """An answer with an error."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(status, code, message)
        self.status, self.code, self.message = status, code, message


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    do_GET = do_POST = do_PUT = do_HEAD  # noqa: N815

    def answer(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub.requests.append((f"{self.command} {self.path}", self.headers.get("Authorization")))
        try:
            self.route(unquote(self.path.partition("?")[0]))
        except RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self.reply({"error": refused.message}, refused.status, {k: v for k, v in headers.items() if v})

    def route(self, path: str) -> None:
        parts = path.strip("/").split("/")
        if path.startswith("/store/"):
            self.serve_store(parts[1])
        elif path == "/api/repos/create":
            self.create(json.loads(self.body))
        elif path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self.writable("/".join(parts[:2]).removesuffix(".git"))
            objects = json.loads(self.body)["objects"]
            self.reply({"transfer": "basic", "objects": [self.upload(each) for each in objects]})
        elif parts[:2] == ["api", "models"] and len(parts) == 4:
            self.reply({"id": "/".join(parts[2:]), "sha": self.readable("/".join(parts[2:])).head, "siblings": []})
        elif parts[:2] == ["api", "models"] and parts[4] == "preupload":
            self.writable("/".join(parts[2:4]))
            files = [
                {"path": f["path"], "uploadMode": self.mode(f["path"]), "shouldIgnore": False}
                for f in json.loads(self.body)["files"]
            ]
            self.reply({"files": files})
        elif parts[:2] == ["api", "models"] and parts[4] == "commit":
            self.commit("/".join(parts[2:4]))
        elif len(parts) >= 5 and parts[2] == "resolve":
            self.resolve("/".join(parts[:2]), parts[3], "/".join(parts[4:]))
        else:
            raise RefusedError(404, message=f"no route for {path}")

    def user(self) -> str | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        owner = self.hub.tokens.get(given.removeprefix("Bearer "))
        if owner is None:
            raise RefusedError(401, message="Invalid credentials in Authorization header")
        return owner

    def readable(self, name: str) -> Repository:
        user, found = self.user(), self.hub.repositories.get(name)
        if found is None or (found.private and user != name.partition("/")[0]):
            raise RefusedError(404 if user else 401, "RepoNotFound", "Repository not found")
        return found

    def writable(self, name: str) -> Repository:
        found = self.readable(name)
        if self.user() != name.partition("/")[0]:
            raise RefusedError(403, message="You don't have the rights to write here")
        return found

    def create(self, asked: dict[str, Any]) -> None:
        user, name = self.user(), f"{asked['organization']}/{asked['name']}"
        if user is None:
            raise RefusedError(401, message="Log in first")
        if user != asked["organization"]:
            raise RefusedError(403, message="You don't have the rights to create a model under this namespace")
        if name in self.hub.repositories:
            self.reply({"url": f"{self.hub.url}/{name}"}, 409)
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        self.hub.repositories[name] = Repository(private)
        self.reply({"url": f"{self.hub.url}/{name}"})

    @staticmethod
    def mode(path: str) -> str:
        return "lfs" if path.endswith(".safetensors") else "regular"

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.hub.store_url}/{wanted['oid']}"
        return wanted | {"actions": {"upload": {"href": href, "header": {}}, "verify": {"href": href, "header": {}}}}

    def serve_store(self, oid: str) -> None:
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == oid
            self.hub.store[oid] = self.body
            self.reply({})
        elif self.command == "POST":
            self.reply({}, 200 if len(self.hub.store[oid]) == json.loads(self.body)["size"] else 422)
        else:
            self.reply(self.hub.store[oid], 200, {"ETag": f'"{oid}"'})

    def commit(self, name: str) -> None:
        repository = self.writable(name)
        files = dict(repository.commits[repository.head]) if repository.commits else {}
        for line in map(json.loads, self.body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.store[value["oid"]]
        commit = hashlib.sha1(self.body + str(len(repository.commits)).encode()).hexdigest()
        repository.commits[commit] = files
        self.reply({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def resolve(self, name: str, revision: str, file: str) -> None:
        repository = self.readable(name)
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            raise RefusedError(404, "RevisionNotFound", "Invalid rev id")
        content = repository.commits[commit].get(file)
        if content is None:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit}
        if self.mode(file) == "lfs":
            oid = hashlib.sha256(content).hexdigest()
            linked = {
                "X-Linked-Size": str(len(content)),
                "X-Linked-ETag": f'"{oid}"',
                "Location": f"{self.hub.store_url}/{oid}",
            }
            self.reply(b"", 302, headers | linked)
        else:
            self.reply(content, 200, headers | {"ETag": f'"{hashlib.sha1(content).hexdigest()}"'})

    def reply(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve_hub() -> Iterator[Hub]:
    """A Hub without repositories, for as long as the context is open."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    hub.store_url = f"http://localhost:{server.server_address[1]}/store"  # another host: it gets no token
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
