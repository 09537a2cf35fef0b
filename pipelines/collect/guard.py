"""Who may talk to the page: known hosts, requests that come from the page itself, and holders of a key."""

import secrets
from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 8_000_000  # of a request: a demonstration of a million characters fits, whatever its script
LOCAL = ("localhost", "127.0.0.1", "[::1]")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


class Guard:
    """Refuses what does not come from the page, and puts headers on every answer that keep browsers strict.

    A page of another site cannot read or write here: the host must be one of ours (which stops a foreign name that
    resolves to this machine), and a request that changes something must be JSON from our own origin.

    Args:
        app: what is guarded.
        hosts: names by which the page may be reached, without port; loopback always is.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = ()) -> None:
        self.app = app
        self.hosts = {*LOCAL, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def strict(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refusal(Request(scope))
        await (refusal or self.app)(scope, _bounded(receive), strict)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if _name(host) not in self.hosts:
            return PlainTextResponse(
                f"This page is not known as {host[:80]!r}. Its owner can name it: tunewell collect serve --host NAME.",
                400,
            )
        if request.method in ("GET", "HEAD"):
            return None
        origin = request.headers.get("origin")
        is_ours = origin is None or origin.partition("://")[2] == host
        if not is_ours or request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return JSONResponse({"error": "this request came from another site"}, 403)
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return JSONResponse({"error": "wanted a request of type application/json"}, 415)
        length = request.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return JSONResponse({"error": f"wanted a request of at most {MOST_BYTES:,} bytes, its length given"}, 413)
        return None


def is_key(given: str | None, wanted: str) -> bool:
    """Whether a secret is the right one, in a time that tells nothing of it."""
    return given is not None and secrets.compare_digest(given.encode(), wanted.encode())


def _name(host: str) -> str:
    """The host without its port."""
    if host.startswith("["):
        return host.partition("]")[0].lower() + "]"
    return host.partition(":")[0].lower()


def _bounded(receive: Receive) -> Receive:
    """The same, but a body longer than announced is cut off as a lost connection."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return {"type": "http.disconnect"} if seen > MOST_BYTES else message

    return bounded
