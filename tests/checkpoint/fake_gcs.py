"""A Google Cloud Storage of one process: its JSON API on a local port, as far as TensorStore uses
it, and a file system for etils.epath on the same objects. What a request changes is checked as the
real one does (ifGenerationMatch)."""

import json
import sys
import threading
import types
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFile

from avjax.storage import paths

NOON = "2026-01-01T12:00:00.000Z"


class Store(dict):
    """{"bucket/name": (bytes, generation)}."""

    def __init__(self):
        super().__init__()
        self.lock, self.generation, self.requests = threading.RLock(), 0, []
        self.refused = ""  # what the names of objects that may not be read have in common

    def put(self, key: str, data: bytes) -> int:
        with self.lock:
            self.generation += 1
            self[key] = (bytes(data), self.generation)
            return self.generation


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = 1 << 16, True  # else every answer takes 40 ms
    store: Store

    def log_message(self, *args):
        pass

    def _route(self):
        url = urllib.parse.urlsplit(self.path)
        query = {k: v[0] for k, v in urllib.parse.parse_qs(url.query).items()}
        parts = url.path.split("/b/", 1)[1].split("/", 2) if "/b/" in url.path else []
        self.store.requests.append((self.command, self.path))
        bucket = parts[0] if parts else ""
        name = urllib.parse.unquote(parts[2]) if len(parts) > 2 else None
        return url.path, query, bucket, name

    def _answer(self, status: int, body: bytes = b"", **headers):
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value, status: int = 200):
        self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

    def _meta(self, key: str) -> dict:
        data, generation = self.store[key]
        bucket, _, name = key.partition("/")
        return {"kind": "storage#object", "name": name, "bucket": bucket, "size": str(len(data)),
                "generation": str(generation), "metageneration": "1", "updated": NOON,
                "timeCreated": NOON}

    def _precondition(self, key: str, query: dict) -> bool:
        if "ifGenerationMatch" not in query:
            return True
        return int(query["ifGenerationMatch"]) == (self.store[key][1] if key in self.store else 0)

    def do_GET(self):
        path, query, bucket, name = self._route()
        with self.store.lock:
            if name is None and path.endswith("/o"):
                return self._list(bucket, query)
            key = f"{bucket}/{name}"
            if self.store.refused and self.store.refused in (name or ""):
                return self._json({"error": {"code": 403, "message": "expired"}}, 403)
            if name is None:
                return self._json({"kind": "storage#bucket", "name": bucket, "id": bucket})
            if key not in self.store:
                return self._json({"error": {"code": 404, "message": "No such object"}}, 404)
            data, generation = self.store[key]
            if query.get("ifGenerationNotMatch") == str(generation):
                return self._answer(304)
            if query.get("alt") != "media":
                return self._json(self._meta(key))
            return self._media(data, generation)

    def _media(self, data: bytes, generation: int):
        given, headers = self.headers.get("Range"), {"x_goog_generation": str(generation)}
        if not given:
            return self._answer(200, data, **headers)
        first, last = given.removeprefix("bytes=").split("-")
        first = int(first) if first else max(0, len(data) - int(last))
        last = min(int(last) if last and given[6] != "-" else len(data) - 1, len(data) - 1)
        if first >= len(data):
            return self._answer(416)
        return self._answer(206, data[first:last + 1],
                            Content_Range=f"bytes {first}-{last}/{len(data)}", **headers)

    def _list(self, bucket: str, query: dict):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        names = sorted(k.partition("/")[2] for k in self.store
                       if k.startswith(f"{bucket}/{prefix}"))
        names = [n for n in names if n >= query.get("startOffset", "")]
        items, prefixes = [], []
        for name in names:
            rest = name[len(prefix):]
            if delimiter and delimiter in rest:
                prefixes.append(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self._meta(f"{bucket}/{name}"))
        self._json({"kind": "storage#objects", "items": items, "prefixes": sorted(set(prefixes))})

    def do_POST(self):
        _, query, bucket, _ = self._route()
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = f"{bucket}/{query['name']}"
        with self.store.lock:
            if not self._precondition(key, query):
                return self._json({"error": {"code": 412, "message": "precondition"}}, 412)
            self.store.put(key, data)
            return self._json(self._meta(key))

    def do_DELETE(self):
        _, query, bucket, name = self._route()
        key = f"{bucket}/{name}"
        with self.store.lock:
            if key not in self.store:
                return self._json({"error": {"code": 404, "message": "No such object"}}, 404)
            if not self._precondition(key, query):
                return self._json({"error": {"code": 412, "message": "precondition"}}, 412)
            del self.store[key]
            return self._answer(204)


class Server:
    """`with Server() as s:` s.store, s.url."""

    def __enter__(self):
        self.store = Store()
        handler = type("Handler", (Handler,), {"store": self.store})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._http.shutdown()
        self._http.server_close()


class Files(fsspec.AbstractFileSystem):
    """An object store as gcsfs shows it: folders are what names have in common, and cannot be
    empty."""

    protocol, cachable = ("gs", "gcs", "s3"), False
    store: Store

    @classmethod
    def _strip_protocol(cls, path):
        return (str(path).removeprefix("gs://").removeprefix("gcs://").removeprefix("s3://").strip(
            "/"))

    def _under(self, path):
        path = self._strip_protocol(path)
        return [k for k in list(self.store) if k.startswith(path + "/")]

    def info(self, path, **kwargs):
        path = self._strip_protocol(path)
        if path in self.store:
            return {"name": path, "size": len(self.store[path][0]), "type": "file"}
        if self._under(path) or "/" not in path:
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **kwargs):
        path = self._strip_protocol(path)
        names = sorted({f"{path}/{key[len(path) + 1:].split('/')[0]}" for key in self._under(path)})
        if not names and path not in self.store and "/" in path:
            raise FileNotFoundError(path)
        infos = [self.info(name) for name in names or [path]]
        return infos if detail else [i["name"] for i in infos]

    def _open(self, path, mode="rb", **kwargs):
        path = self._strip_protocol(path)
        if mode == "rb":
            if path not in self.store:
                raise FileNotFoundError(path)
            return MemoryFile(self, path, self.store[path][0])
        if mode != "wb":
            raise ValueError(f"objects are written whole, not with mode {mode}")
        return Upload(self.store, path)

    def rm_file(self, path):
        if self.store.pop(self._strip_protocol(path), None) is None:
            raise FileNotFoundError(path)

    def rm(self, path, recursive=False, maxdepth=None):
        for key in self._under(path) if recursive else []:
            self.store.pop(key, None)
        if self._strip_protocol(path) in self.store:
            self.rm_file(path)

    def mkdir(self, path, create_parents=True, **kwargs):
        pass

    def makedirs(self, path, exist_ok=False):
        pass

    def rmdir(self, path):
        pass


class Upload(MemoryFile):
    """Appears when it is closed."""

    def __init__(self, store, path):
        super().__init__()
        self.store, self.key = store, path

    def close(self):
        if not self.closed:
            self.store.put(self.key, self.getvalue())
            super().close()


@pytest.fixture
def store(monkeypatch):
    """The objects of all buckets, {"bucket/name": (bytes, generation)}; what opens gs://, s3://,
    ... in a test sees these."""
    with Server() as server:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", server.url)
        files = type("Files", (Files,), {"store": server.store})
        monkeypatch.setattr(paths, "EXTRAS", {})
        monkeypatch.setattr(backend.fsspec_backend, "_get_filesystem", lambda protocol: files())
        # Orbax asks Google's package whether a bucket has a hierarchical namespace.
        client = types.SimpleNamespace(get_bucket=lambda name: types.SimpleNamespace())
        storage, cloud = types.ModuleType("google.cloud.storage"), types.ModuleType("google.cloud")
        storage.Client, cloud.storage = lambda: client, storage
        monkeypatch.setitem(sys.modules, "google.cloud", cloud)
        monkeypatch.setitem(sys.modules, "google.cloud.storage", storage)
        yield server.store
