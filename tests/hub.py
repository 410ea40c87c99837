"""A small hub: the few endpoints that the hub's library and a download need, over real HTTP.

It can break off, send other bytes than it lists, ignore ranges, dawdle, and be down.
"""

import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

COMMIT = "c0ffee" + "0" * 34
BIG = 4096
"""Files of so many bytes are stored as the hub stores large ones: named by their SHA-256."""


def tensors(size: int, *, byte: int = 0) -> bytes:
    """Return a safetensors file with one tensor of so many bytes."""
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "model.weight": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]},
        }
    ).encode()
    return len(header).to_bytes(8, "little") + header + bytes([byte]) * size


def config(**changes: Any) -> bytes:
    """Return the config.json of a small model that chats: 2 * 4 layers * 2 heads * 64 * 2 bytes."""
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "hidden_size": 512,
        "max_position_embeddings": 2048,
        "torch_dtype": "bfloat16",
    }
    return json.dumps(fields | changes).encode()


class SmallHub:
    """A hub of its own; `sources` is what it has: for each source its files."""

    def __init__(self) -> None:
        self.sources: dict[str, dict[str, bytes]] = {}
        self.breaks: dict[str, list[int]] = {}
        """For a path, after how many bytes of an answer each of the next ones breaks off."""
        self.swapped: set[str] = set()
        """Paths that are sent with other bytes than listed."""
        self.rates: dict[str, int] = {}
        """Bytes a second for a path."""
        self.odd: dict[str, str] = {}
        """How a path is answered, against what is listed or asked for: see `_oddly`."""
        self.lists: dict[str, Any] = {}
        """What is listed of a source, against what there is: fields of the answer."""
        self.sent = 0
        """Bytes of bodies without an end that the client took."""
        self.ranges = True
        self.down = False
        self.bare = False
        """Whether it lists files by their names alone."""
        self.gated: set[str] = set()
        self.tokens: dict[str, str] = {}
        """For a private source, the token without which it is not given."""
        self.asked: list[tuple[str, str, str]] = []
        """Every request: method, path, and the range that was asked for."""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def model(self, source: str, size: int, **changes: Any) -> None:
        """Put a model there whose weights have so many bytes."""
        self.sources[source] = {
            "README.md": b"# A model\n",
            "config.json": config(**changes),
            "model.safetensors": tensors(size),
            "tokenizer.json": b'{"a":1}',
        }

    def fetched(self, path: str) -> list[str]:
        """Return the ranges of all requests for a file's bytes."""
        return [each for method, asked, each in self.asked if method == "GET" and path in asked]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer()

            def do_GET(self) -> None:
                self._answer()

            def log_message(self, *_: Any) -> None:
                pass

            def _answer(self) -> None:
                path = unquote(urlsplit(self.path).path).strip("/")
                hub.asked.append((self.command, path, self.headers.get("Range", "")))
                if hub.down:
                    self._error(503, "", "the hub is down")
                elif path.startswith("api/models/"):
                    self._api(path.removeprefix("api/models/"))
                else:
                    self._file(path)

            def _api(self, path: str) -> None:
                source, _, rest = path.partition("/revision/")
                if "/tree/" in source:
                    source, _, rest = source.partition("/tree/")
                    self._json([_entry(*each) for each in hub._files(source)])
                    return
                if self._without_end(hub.odd.get(source, "")):
                    return
                if source in hub.gated:
                    self._error(403, "GatedRepo", "this one is gated")
                elif source not in hub.sources or not self._let_in(source):
                    self._error(401, "RepoNotFound", "no such model")
                elif rest not in ("", "main", COMMIT):
                    self._error(404, "RevisionNotFound", "no such revision")
                else:
                    siblings = [_sibling(*each) for each in hub._files(source)]
                    if hub.bare:
                        siblings = [{"rfilename": each["rfilename"]} for each in siblings]
                    told = {"id": source, "sha": COMMIT, "siblings": siblings}
                    self._json(told | hub.lists.get(source, {}))

            def _let_in(self, source: str) -> bool:
                token = hub.tokens.get(source)
                return token is None or self.headers.get("Authorization") == f"Bearer {token}"

            def _file(self, path: str) -> None:
                source, _, rest = path.partition("/resolve/")
                name = rest.partition("/")[2]
                content = hub.sources.get(source, {}).get(name)
                if content is None or not self._let_in(source):
                    self._error(404, "EntryNotFound", "no such file")
                    return
                etag = digest(content)
                if name in hub.swapped:
                    content = bytes(reversed(content))
                if self._without_end(hub.odd.get(name, "")):
                    return
                begin, status = 0, 200
                asked = self.headers.get("Range", "")
                if asked and hub.ranges:
                    begin, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
                if self.command == "GET" and self._oddly(hub.odd.get(name, ""), content, begin):
                    return
                part = content[begin:]
                self.send_response(status)
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", str(len(part)))
                if status == 206:
                    self.send_header(
                        "Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}"
                    )
                self.end_headers()
                if self.command == "HEAD":
                    return
                breaks = hub.breaks.get(name)
                if breaks:
                    part = part[: breaks.pop(0)]
                    self.close_connection = True
                self._send(part, hub.rates.get(name))

            def _without_end(self, how: str) -> bool:
                """Answer with a body of 64 MiB, or drop by drop; False if that isn't asked."""
                statuses = {"endless": 200, "drips": 200, "endless error": 503, "endless way": 302}
                if how not in statuses:
                    return False
                self.send_response(statuses[how])
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                if how == "endless way":
                    self.send_header("Location", self.path)
                self.end_headers()
                self.close_connection = True
                try:
                    if how == "drips":
                        for _ in range(2500):
                            self.wfile.write(b" ")
                            time.sleep(0.02)
                    for _ in range(1024):
                        self.wfile.write(b'"aaaaaaaaaaaaa",' * 4096)
                        hub.sent += 65536
                except OSError:
                    pass
                return True

            def _oddly(self, how: str, content: bytes, begin: int) -> bool:
                """Answer as no hub should; False if this request is answered as others."""
                size, head = len(content), {"Content-Length": str(len(content) - begin)}
                status, body = 206 if begin else 200, content[begin:]
                if how == "another part" and begin:
                    head |= {"Content-Range": f"bytes 0-{size - 1}/{size}"}
                elif how == "416" and begin:
                    status, body, head = 416, b"", {"Content-Length": "0"}
                elif how == "longer, announced":
                    head, body = {"Content-Length": str(size + 10)}, content + b"x" * 10
                elif how == "longer":
                    head, body = {}, content + b"x" * 1_000_000
                elif how == "shorter, announced":
                    head, body = {"Content-Length": str(size - 10)}, content[:-10]
                elif how == "shorter":
                    status, head, body = 200, {}, content[:-10]
                elif how == "web page":
                    status, body = 200, b"<html>please log in</html>"
                    head = {"Content-Type": "text/html; charset=utf-8"}
                elif how == "compressed":
                    head |= {"Content-Encoding": "gzip"}
                elif how == "redirected":
                    status, body = 302, b""
                    head = {"Location": self.path, "Content-Length": "0"}
                elif how == "nowhere":
                    status, body = 302, b""
                    head = {"Location": "http://127.0.0.1:99999/", "Content-Length": "0"}
                elif how == "slow head":
                    self._send(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 10_000, 20)
                    return True
                else:
                    return False
                self.send_response(status)
                for name, value in head.items():
                    self.send_header(name, value)
                if "Content-Length" not in head:
                    self.send_header("Connection", "close")
                self.end_headers()
                self._send(body, None)
                return True

            def _send(self, content: bytes, rate: int | None) -> None:
                try:
                    if rate is None:
                        self.wfile.write(content)
                        return
                    step = max(1, rate // 20)
                    for at in range(0, len(content), step):
                        self.wfile.write(content[at : at + step])
                        self.wfile.flush()
                        time.sleep(0.05)
                except OSError:
                    self.close_connection = True

            def _json(self, value: Any) -> None:
                body = msgspec.json.encode(value)
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def _error(self, status: int, code: str, text: str) -> None:
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", text)
                self.send_header("Content-Length", "0")
                self.end_headers()

        return Handler

    def _files(self, source: str) -> list[tuple[str, bytes]]:
        return sorted(self.sources.get(source, {}).items())


def digest(content: bytes) -> str:
    """Return the name of a file's blob: SHA-256 for large ones, git's hash for small ones."""
    if len(content) >= BIG:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _sibling(path: str, content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": digest(content)}
    if len(content) >= BIG:
        found |= {
            "blobId": "0" * 40,
            "lfs": {"sha256": digest(content), "size": len(content), "pointerSize": 134},
        }
    return found


def _entry(path: str, content: bytes) -> dict[str, Any]:
    found = {"type": "file", "path": path, "size": len(content), "oid": digest(content)}
    if len(content) >= BIG:
        found |= {"lfs": {"oid": digest(content), "size": len(content), "pointerSize": 134}}
    return found
