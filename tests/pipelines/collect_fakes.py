"""A small study, and its page served from a thread of the test."""

import http.client
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from tunewell.pipelines.collect.app import Page
from tunewell.pipelines.collect.items import items_of
from tunewell.pipelines.collect.store import Store
from tunewell.pipelines.collect.work import Assigned, Work

ROWS = [
    {"prompt": "Write a line about rain."},
    {"prompt": "Why is the sky blue?", "completions": [" Scattering.", " Paint.", " No idea."], "policies": [*"xyz"]},
    {"prompt": "Say hello.", "completions": [" Hello.", " Go away."], "policies": ["x", "y"]},
    {"prompt": "Say goodbye.", "completion": " Goodbye."},
]  # fmt: skip


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def study(folder: Path, rows: Sequence[Any] = ROWS, **settings: int) -> tuple[Store, Work, Clock]:
    clock = Clock()
    store = Store(folder / "study.sqlite", clock=clock)
    store.keep("study", "fixed")  # the orders shown are drawn by this name, which is a new one for every real study
    for name, value in settings.items():
        store.keep(name, value)
    store.add(items_of(rows, "auto", "rows"))
    return store, Work(store), clock


def good_answer(item: Assigned, text: str = "Rain taps the roof.") -> dict[str, Any]:
    """An answer that is whole: the first shown is best."""
    n = len(item.shown)
    parts = {
        "demonstrate": {"completion": text},
        "rate": {"ratings": [4] * n, "flags": [[] for _ in range(n)]},
        "rank": {"ranks": list(range(1, n + 1))},
    }
    return {key: value for step in item.steps for key, value in parts[step].items()}


@contextmanager
def served(store: Store, hosts: tuple[str, ...] = ()) -> Iterator["Browser"]:
    """The page at a free port of loopback."""
    page = Page(store, hosts)
    # No log_config: uvicorn's closes the handlers of all libraries; absl's (of lm-eval) then closes pytest's capture.
    config = uvicorn.Config(page.app, port=0, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield Browser(port, page)
    finally:
        server.should_exit = True
        thread.join(10)


class Browser:
    """Asks as a page does, and keeps cookies."""

    def __init__(self, port: int, page: Page | None = None) -> None:
        self.port, self.page = port, page
        self.cookies: dict[str, str] = {}
        self.url = f"http://127.0.0.1:{port}"

    def another(self) -> "Browser":
        return Browser(self.port, self.page)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, raw: bytes | None = None
    ):
        sent = {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        if method == "POST":
            sent["content-type"] = "application/json"
        content = raw if raw is not None else json.dumps(body or {}).encode() if method == "POST" else None
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, content, sent | (headers or {}))
            response = connection.getresponse()
            content = response.read()
        for name, value in response.getheaders():
            if name.lower() == "set-cookie":
                key, _, rest = value.partition("=")
                self.cookies[key] = rest.partition(";")[0]
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(content) if is_json else content, response.headers

    def post(self, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        status, found, _ = self.ask("POST", path, body, **more)
        return status, found

    def join(self, name: str) -> "Browser":
        status, found = self.post("/api/join", {"name": name})
        assert status == 200, found
        return self


def page_answer(item: dict[str, Any]) -> dict[str, Any]:
    """What the page would send for an item that it was given."""
    n = len(item["completions"])
    parts = {
        "demonstrate": {"completion": "Rain taps the roof."},
        "rate": {"ratings": [4] * n, "flags": [[] for _ in range(n)]},
        "rank": {"ranks": list(range(1, n + 1))},
    }
    return {key: value for step in item["steps"] for key, value in parts[step].items()}
