"""The viewer's server: three files of a page and a small JSON API, for this machine alone.

It answers GET on the loopback interface, to hosts that are named so (another name is a page that was led here by DNS).
Its policy lets the page run its own script only, and the page shows what a model wrote as text.

Routes::

    /  /viewer.js  /viewer.css
    /api/runs                       every run
    /api/runs/2?epoch=0&start=0     rollouts of a run, a page of them
    /api/runs/2/texts?step=5        texts of a step
    /api/runs/2/search?text=abc     rollouts whose prompt or completion has a text
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic_core import to_json

from arrol.errors import ArrolError, ConfigError
from arrol.records.store import find_runs
from arrol.records.texts import shown_texts
from arrol.reports.viewer.feed import RunFeed
from arrol.reports.viewer.search import search_texts

HOST = "127.0.0.1"
PORT = 8017
"""Tried first; then the next ones."""
TRIES = 20
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
FILES = {
    "/": ("page.html", "text/html"),
    "/viewer.js": ("viewer.js", "text/javascript"),
    "/viewer.css": ("viewer.css", "text/css"),
}
HOSTS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)


class Library:
    """The runs that are shown, by number; runs that appear later get the next numbers."""

    def __init__(self, paths: Sequence[str | Path]) -> None:
        """DataError where a path has no run."""
        self._paths = list(paths)
        self._feeds: dict[Path, RunFeed] = {}
        self._find()

    def feeds(self) -> list[RunFeed]:
        return list(self._feeds.values())

    def summaries(self) -> list[dict[str, Any]]:
        """What the list of runs shows; a damaged run has its error."""
        self._find()
        found: list[dict[str, Any]] = []
        for feed in self.feeds():
            try:
                found.append(feed.summary())
            except ArrolError as error:
                found.append({"name": feed.folder.name, "error": str(error)})
        return found

    def _find(self) -> None:
        for folder in find_runs(self._paths):
            self._feeds.setdefault(folder.resolve(), RunFeed(folder))


def as_json(value: Any) -> bytes:
    """JSON as a browser reads it: numbers that are not finite are null."""
    return to_json(value, inf_nan_mode="null")


def viewer_server(library: Library, port: int | None) -> ThreadingHTTPServer:
    """A server that listens on ``port``, or on the first free one from ``PORT`` on; ConfigError where it is taken."""

    class Handler(_Handler):
        runs = library

    for tried in range(PORT, PORT + TRIES) if port is None else [port]:
        try:
            return _Server((HOST, tried), Handler)
        except (OSError, OverflowError):
            continue
    shown = f"{PORT} to {PORT + TRIES - 1}" if port is None else str(port)
    raise ConfigError(f"--port = {shown}: in use or not allowed; choose another --port, 0 takes any that is free")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves in the middle of an answer is no error."""


class _Handler(BaseHTTPRequestHandler):
    runs: Library
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self) -> None:
        if not HOSTS.fullmatch(self.headers.get("Host", "")):
            self._send(HTTPStatus.FORBIDDEN, b"this server answers to 127.0.0.1 and localhost", "text/plain")
            return
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query, keep_blank_values=True).items()}
        try:
            status, body, kind = self._answer(address.path, query)
        except (ArrolError, ValueError) as error:
            status, body, kind = HTTPStatus.BAD_REQUEST, as_json({"error": str(error)}), "application/json"
        self._send(status, body, kind)

    def _answer(self, path: str, query: dict[str, str]) -> tuple[HTTPStatus, bytes, str]:
        if path in FILES:
            name, kind = FILES[path]
            return HTTPStatus.OK, (resources.files("arrol.reports.viewer") / name).read_bytes(), kind
        if path == "/api/runs":
            return HTTPStatus.OK, as_json(self.runs.summaries()), "application/json"
        found = re.fullmatch(r"/api/runs/(\d{1,6})(/texts|/search)?", path)
        feeds = self.runs.feeds()
        if not found or int(found[1]) >= len(feeds):
            return HTTPStatus.NOT_FOUND, json.dumps({"error": "no such page"}).encode(), "application/json"
        feed = feeds[int(found[1])]
        if found[2] == "/texts":
            body = shown_texts(feed.folder, _number(query, "step")) or b"null"
        elif found[2] == "/search":
            body = as_json(search_texts(feed.folder, query.get("text", "")))
        else:
            body = as_json(feed.page(_number(query, "epoch"), _number(query, "start")))
        return HTTPStatus.OK, body, "application/json"

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(body))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not printed."""


def _number(query: dict[str, str], name: str) -> int:
    text = query.get(name, "0")
    if not re.fullmatch(r"\d{1,15}", text):
        raise ValueError(f"{name} = {text[:40]!r}: not a number")
    return int(text)
