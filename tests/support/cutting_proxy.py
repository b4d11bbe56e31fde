"""A small HTTP proxy in front of the S3 service that breaks things on request.

>>> with CuttingProxy(s3_server.endpoint_url) as proxy:  # doctest: +SKIP
...     proxy.cut_gets(after=1_000_000, times=2)   # the next two downloads break after 1 MB
...     proxy.fail_part(3, status=503, times=None)  # part 3 of any upload never works
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

CHUNK = 64 * 1024
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "proxy-connection"}


@dataclass
class Request:
    """One request that passed the proxy, and what became of it."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    status: int = 0
    sent: int = 0
    cut: bool = False

    @property
    def range(self) -> str | None:
        return self.headers.get("range")

    @property
    def is_object_get(self) -> bool:
        """A download of an object's body, not a listing or one of its properties."""
        return (
            self.method == "GET"
            and self.path.strip("/").count("/") >= 1
            and (set(self.query) <= {"partNumber", "versionId", "x-id"})
        )

    @property
    def part(self) -> int | None:
        """The number of the part, when this is an UploadPart."""
        if self.method == "PUT" and "uploadId" in self.query and "partNumber" in self.query:
            return int(self.query["partNumber"])
        return None

    @property
    def operation(self) -> str:
        """A name like those of the S3 documentation, for readable assertions."""
        is_object = self.path.strip("/").count("/") >= 1
        if self.part is not None:
            return "UploadPart"
        if self.method == "POST" and "uploads" in self.query:
            return "CreateMultipartUpload"
        if "uploadId" in self.query:
            return {"POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}.get(
                self.method, "ListParts"
            )
        if "list-type" in self.query:
            return "ListObjectsV2"
        if self.is_object_get:
            return "GetObject"
        kind = "Object" if is_object else "Bucket"
        verbs = {"PUT": "Put" if is_object else "Create", "HEAD": "Head", "DELETE": "Delete"}
        return verbs.get(self.method, self.method) + kind


@dataclass
class Rule:
    """A fault: applied to requests that ``matches`` accepts, ``times`` times (None: for ever)."""

    matches: Callable[[Request], bool]
    cut_after: int | None = None
    reset: bool = True
    status: int | None = None
    drop: bool = False
    hold: threading.Event | None = None
    times: int | None = 1
    used: int = field(default=0)


class CuttingProxy:
    """Forwards to ``upstream``; see the methods for what it can break."""

    def __init__(self, upstream: str) -> None:
        parts = urllib.parse.urlsplit(upstream)
        assert parts.hostname is not None
        assert parts.port is not None
        self.upstream = (parts.hostname, parts.port)
        self.requests: list[Request] = []
        self.pause = 0.0
        """Seconds before every 64 KiB of a download, for a slow network."""
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._held: list[threading.Event] = []
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.endpoint_url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        for event in self._held:
            event.set()
        self._server.shutdown()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()  # waits for the threads of the requests
        self._thread.join(timeout=10)

    # -- faults -----------------------------------------------------------------------------------

    def add(self, rule: Rule) -> Rule:
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """From now on forward everything."""
        with self._lock:
            self._rules.clear()

    def cut_gets(self, after: int, times: int | None = 1, reset: bool = False) -> Rule:
        """End the connection of a download after ``after`` bytes of its body.

        With ``reset`` it ends as if the network broke, and the last bytes may be lost too.
        """
        return self.add(Rule(lambda r: r.is_object_get, cut_after=after, reset=reset, times=times))

    def fail_part(
        self, number: int, status: int | None = 503, drop: bool = False, times: int | None = None
    ) -> Rule:
        """Answer UploadPart ``number`` with ``status``, or break its connection.

        boto3 repeats such a request some times, so by default the part never works.
        """
        return self.add(Rule(lambda r: r.part == number, status=status, drop=drop, times=times))

    def fail(
        self,
        operation: str,
        status: int | None = 503,
        drop: bool = False,
        times: int | None = None,
    ) -> Rule:
        """The same for any operation, such as "CompleteMultipartUpload" (`Request.operation`)."""
        return self.add(
            Rule(lambda r: r.operation == operation, status=status, drop=drop, times=times)
        )

    def hold(self, operation: str, times: int | None = 1) -> threading.Event:
        """Let requests wait, for the stall of a storage, until the returned event is set."""
        event = threading.Event()
        self._held.append(event)
        self.add(Rule(lambda r: r.operation == operation, hold=event, times=times))
        return event

    def seen(self, operation: str) -> list[Request]:
        """The requests of one operation so far."""
        with self._lock:
            return [request for request in self.requests if request.operation == operation]

    # -- for the handler --------------------------------------------------------------------------

    def _rule_for(self, request: Request) -> Rule | None:
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if (rule.times is None or rule.used < rule.times) and rule.matches(request):
                    rule.used += 1
                    return rule
        return None


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Broken connections are this server's business; do not print tracebacks."""


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: CuttingProxy
    protocol_version = "HTTP/1.1"
    timeout = 60

    def setup(self) -> None:
        super().setup()
        with self.owner._lock:
            self.owner._open.add(self.connection)

    def finish(self) -> None:
        with self.owner._lock:
            self.owner._open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, *args: object) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):  # what http.server calls for each method
            return self._forward
        raise AttributeError(name)

    def _body(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            while self.rfile.readline().strip():  # trailers
                pass
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left > 0:
            chunk = self.rfile.read(min(left, CHUNK))
            if not chunk:
                raise ConnectionError("the client went away")
            left -= len(chunk)
            yield chunk

    def _cut(self, reset: bool) -> None:
        """Close the connection, by a reset if asked, before its time."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            if reset:
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            # The rest of socketserver would end it politely first.
            self.rfile.close()
            self.connection.close()

    def _forward(self) -> None:
        parts = urllib.parse.urlsplit(self.path)
        request = Request(
            method=self.command,
            path=urllib.parse.unquote(parts.path),
            query=dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True)),
            headers={name.lower(): value for name, value in self.headers.items()},
        )
        rule = self.owner._rule_for(request)
        if rule is not None and rule.hold is not None:
            rule.hold.wait()
            rule = None
        if rule is not None and rule.drop:
            request.cut = True
            self._cut(rule.reset)
            return
        if rule is not None and rule.status is not None:
            for _ in self._body():
                pass
            request.status = rule.status
            content = (
                b'<?xml version="1.0"?><Error><Code>ServiceUnavailable</Code>'
                b"<Message>refused by the test</Message></Error>"
            )
            self.send_response(rule.status)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            return
        with contextlib.closing(http.client.HTTPConnection(*self.owner.upstream)) as upstream:
            self._exchange(upstream, request, rule or Rule(lambda _: True))

    def _exchange(self, upstream: http.client.HTTPConnection, request: Request, rule: Rule) -> None:
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                upstream.putheader(name, value)
        if chunked:
            upstream.putheader("Transfer-Encoding", "chunked")
        upstream.endheaders()
        for chunk in self._body():
            upstream.send(b"%x\r\n%s\r\n" % (len(chunk), chunk) if chunked else chunk)
        if chunked:
            upstream.send(b"0\r\n\r\n")
        answer = upstream.getresponse()
        request.status = answer.status
        length = answer.getheader("Content-Length")
        has_body = self.command != "HEAD" and answer.status not in (204, 304)
        # An answer whose length is unknown is read first: these are small.
        whole = answer.read() if has_body and length is None else None
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        if whole is not None:
            self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        if not has_body:
            return
        if whole is not None:
            self.wfile.write(whole)
            request.sent = len(whole)
            return
        while chunk := answer.read(CHUNK):
            time.sleep(self.owner.pause if request.is_object_get else 0)
            if rule.cut_after is not None and request.sent + len(chunk) > rule.cut_after:
                self.wfile.write(chunk[: rule.cut_after - request.sent])
                request.sent = rule.cut_after
                request.cut = True
                self._cut(rule.reset)
                return
            self.wfile.write(chunk)
            request.sent += len(chunk)
