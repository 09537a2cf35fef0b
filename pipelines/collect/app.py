"""The page's addresses: what each shows or takes, and who may ask."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ...toolkit.errors import DataError, RunError, TunewellError
from .answer_forms import FormError
from .export import as_zip
from .guard import Guard, is_key
from .questions import COMPLETION_FLAGS, PROMPT_FLAGS, SKIP_REASONS
from .results import results_of
from .store import Labeler, Store, clean_name
from .work import Assigned, ConflictError, Work

PAGE = Path(__file__).parent / "page"
MONTH = 30 * 24 * 3600  # seconds that a browser stays known
Endpoint = Callable[[Request], Awaitable[Response]]


class NotJoinedError(DataError):
    """A request of somebody who has not said their name."""


class Page:
    """The feedback page of one study.

    Args:
        store: the study.
        hosts: names by which the page may be reached beside loopback; with any, a link with a key is needed to enter.
    """

    def __init__(self, store: Store, hosts: tuple[str, ...] = ()) -> None:
        self.store, self.work = store, Work(store)
        self.is_open = not hosts
        self.study = store.setting("study")
        self._keys = {name: store.setting(name) for name in ("owner_key", "labelers_key")}
        self._pages = Environment(
            loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        routes = [
            Route("/", self._told(self.home)),
            Route("/join/{key}", self._told(self.enter)),
            Route("/results", self._told(self.results)),
            Route("/api/join", self._told(self.join), methods=["POST"]),
            Route("/api/leave", self._told(self.leave), methods=["POST"]),
            Route("/api/next", self._told(self.next), methods=["POST"]),
            Route("/api/renew", self._told(self.renew), methods=["POST"]),
            Route("/api/answer", self._told(self.answer), methods=["POST"]),
            Route("/api/undo", self._told(self.undo), methods=["POST"]),
            Route("/api/results", self._told(self.results_now)),
            Route("/export.zip", self._told(self.export)),
            Mount("/static", StaticFiles(directory=PAGE / "static")),
        ]
        self.app = Starlette(routes=routes, middleware=[Middleware(Guard, hosts=hosts)])

    # Pages.

    async def home(self, request: Request) -> Response:
        """The work page, or the page that asks for a name."""
        if "token" in request.query_params and is_key(request.query_params["token"], self._keys["labelers_key"]):
            return self._keeping(RedirectResponse("/", 303), "entry", self._keys["labelers_key"])
        labeler = await run_in_threadpool(self._labeler, request)
        if labeler is None:
            may = self._may_join(request)
            return self._page("join.html.j2", 200 if may else 403, may_join=may)
        texts = {
            "completion": [vars(one) for one in COMPLETION_FLAGS],
            "prompt": [vars(one) for one in PROMPT_FLAGS],
        }
        return self._page(
            "work.html.j2", labeler=labeler.name, flags=texts, reasons=SKIP_REASONS, study=self.study,
            link=str(request.base_url) + f"join/{labeler.key}", is_owner=self._is_owner(request),
        )  # fmt: skip

    async def enter(self, request: Request) -> Response:
        """A labeler's own link, for another browser."""
        key = request.path_params["key"]
        labeler = await run_in_threadpool(self.store.labeler, key)
        if labeler is None:
            return self._page("join.html.j2", 403, may_join=False)
        return self._keeping(RedirectResponse("/", 303), "labeler", key)

    async def results(self, request: Request) -> Response:
        """The owner's page."""
        if is_key(request.query_params.get("key"), self._keys["owner_key"]):
            return self._keeping(RedirectResponse("/results", 303), "owner", self._keys["owner_key"])
        if not self._is_owner(request):
            return self._page("join.html.j2", 403, may_join=False)
        return self._page("results.html.j2", study=self.study, title=self.store.path.name)

    # What the pages ask for.

    async def join(self, request: Request) -> Response:
        """Take a name."""
        if not self._may_join(request):
            return JSONResponse({"error": "ask the owner of this study for the link to enter"}, 403)
        name = clean_name((await _body(request)).get("name"))
        known = await run_in_threadpool(self.store.named, name)
        if known is not None and not self.is_open:
            fault = "this name is taken. If it is yours, open your own link (it stands under “You” on your page)"
            return JSONResponse({"error": fault}, 403)
        labeler = await run_in_threadpool(self.store.join, name)
        return self._keeping(JSONResponse({"name": labeler.name}), "labeler", labeler.key)

    async def leave(self, request: Request) -> Response:
        """Forget the name in this browser."""
        response = JSONResponse({})
        response.delete_cookie(self._cookie("labeler"))
        return response

    async def next(self, request: Request) -> Response:
        """The item to work on."""
        return await self._with_item(request, lambda labeler: (self.work.next(labeler), {}))

    async def renew(self, request: Request) -> Response:
        """Hold the item longer."""
        assignment = _whole(await _body(request), "assignment")

        def renew() -> float:
            return self.work.renew(self._joined(request), assignment)

        return JSONResponse({"until": await run_in_threadpool(renew)})

    async def answer(self, request: Request) -> Response:
        """Take an answer or a skip, and give the next item."""
        body = await _body(request)
        key, seconds = body.get("key"), body.get("seconds")
        if not isinstance(key, str) or not 8 <= len(key) <= 80:
            raise FormError(["wanted a key of 8 to 80 characters for this answer"])
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e6:
            seconds = None
        kind: Literal["answer", "skip"] = "skip" if body.get("kind") == "skip" else "answer"
        assignment, answer = _whole(body, "assignment"), body.get("body")

        def take(labeler: Labeler) -> tuple[Assigned | None, dict[str, Any]]:
            number, assigned = self.work.submit_and_next(labeler, assignment, key, kind, answer, seconds)
            return assigned, {"answer": number}

        return await self._with_item(request, take)

    async def undo(self, request: Request) -> Response:
        """Take the last answer back."""
        answer = _whole(await _body(request), "answer")
        return await self._with_item(request, lambda labeler: (self.work.undo(labeler, answer), {}))

    async def results_now(self, request: Request) -> Response:
        """Progress and agreement at this moment."""
        if not self._is_owner(request):
            return JSONResponse({"error": "results are shown to the owner of the study"}, 403)
        return _json(await run_in_threadpool(results_of, self.store))

    async def export(self, request: Request) -> Response:
        """All files of the export as one archive."""
        if not self._is_owner(request):
            return JSONResponse({"error": "the export is for the owner of the study"}, 403)
        content = await run_in_threadpool(as_zip, self.store)
        return Response(
            content, media_type="application/zip", headers={"content-disposition": 'attachment; filename="export.zip"'}
        )

    # Who asks.

    def owner_path(self) -> str:
        """The owner's link, without the server."""
        return f"/results?key={self._keys['owner_key']}"

    def labelers_path(self) -> str:
        """The labelers' link, without the server."""
        return "/" if self.is_open else f"/?token={self._keys['labelers_key']}"

    def _labeler(self, request: Request) -> Labeler | None:
        key = request.cookies.get(self._cookie("labeler"))
        return self.store.labeler(key) if key else None

    def _joined(self, request: Request) -> Labeler:
        labeler = self._labeler(request)
        if labeler is None:
            raise NotJoinedError("say your name first: load the page again")
        return labeler

    def _may_join(self, request: Request) -> bool:
        given = request.cookies.get(self._cookie("entry"))
        return self.is_open or self._is_owner(request) or is_key(given, self._keys["labelers_key"])

    def _is_owner(self, request: Request) -> bool:
        return is_key(request.cookies.get(self._cookie("owner")), self._keys["owner_key"])

    def _cookie(self, role: str) -> str:
        # Browsers send cookies to every port of a host: two studies on one machine must not mix.
        return f"tunewell_{self.study}_{role}"

    def _keeping(self, response: Response, role: str, value: str) -> Response:
        response.set_cookie(self._cookie(role), value, max_age=MONTH, httponly=True, samesite="lax")
        return response

    # How answers are put.

    async def _with_item(
        self, request: Request, act: Callable[[Labeler], tuple[Assigned | None, dict[str, Any]]]
    ) -> Response:
        """Do something for the labeler who asks, and answer with the item that comes then, all in one thread."""

        def run() -> dict[str, Any]:
            labeler = self._joined(request)
            assigned, more = act(labeler)
            page = assigned.as_page() if assigned else None
            return {"item": page, "progress": self.work.progress(labeler)} | more

        return _json(await run_in_threadpool(run))

    def _page(self, name: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._pages.get_template(name).render(**values), status)

    def _told(self, endpoint: Endpoint) -> Endpoint:
        """Faults as answers that the page can show."""

        async def told(request: Request) -> Response:
            try:
                return await endpoint(request)
            except NotJoinedError as error:
                return JSONResponse({"error": str(error), "reason": "not_joined"}, 401)
            except ConflictError as error:
                return JSONResponse({"error": str(error), "reason": "conflict"}, 409)
            except FormError as error:
                return JSONResponse({"error": str(error), "faults": list(error.faults), "reason": "incomplete"}, 422)
            except RunError as error:
                return JSONResponse({"error": str(error), "reason": "busy"}, 503, headers={"retry-after": "2"})
            except TunewellError as error:
                return JSONResponse({"error": str(error), "reason": "refused"}, 422)

        return told


async def _body(request: Request) -> dict[str, Any]:
    try:
        found = orjson.loads(await request.body())
    except (orjson.JSONDecodeError, ClientDisconnect) as error:
        raise FormError(["the request is not whole JSON"]) from error
    if not isinstance(found, dict):
        raise FormError(["wanted a JSON object"])
    return found


def _whole(body: dict[str, Any], name: str) -> int:
    value = body.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**63:
        raise FormError([f"wanted the number of the {name}"])
    return value


def _json(tree: Any) -> Response:
    return Response(orjson.dumps(tree), media_type="application/json")
