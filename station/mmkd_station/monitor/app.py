"""Routes of the page, and what it reads."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mmkd_station.board import SPAN_S, Board
from mmkd_station.monitor.access import COOKIE, Access, Guesses
from mmkd_station.monitor.metrics import service_metrics
from mmkd_station.service import Service
from mmkd_station.station import Station

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

logger = logging.getLogger(__name__)

_STATIC = Path(__file__).parent / "static"
_TICK_S = 0.5
_MAX_PAGES = 32
_MAX_BODY_BYTES = 4096
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TYPES = {"page.css": "text/css"} | dict.fromkeys(("page.js", "drawing.js", "login.js"), "text/javascript")
_NEEDS_TOKEN = "this needs the token that mmkd-run named at its start"


class _Refusal(Exception):  # noqa: N818 - it is an answer, not an error of ours
    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class MonitorApp:
    """The routes. `stopping` ends open answers."""

    def __init__(self, service: Service, *, access: Access, stopping: threading.Event) -> None:
        self._service = service
        self._access = access
        self._stopping = stopping
        self._pages: weakref.WeakSet[PageFollower] = weakref.WeakSet()  # also drops pages that never began
        self._guesses = Guesses()

    def app(self) -> Starlette:
        """Return the Starlette application."""
        from starlette.applications import Starlette

        routes = [
            self._route("/", self._page, look=False),
            self._route("/static/{name}", self._static, look=False),
            self._route("/login", self._login, look=False, method="POST"),
            self._route("/events", self._events),
            self._route("/acknowledge", self._acknowledge, touch=True, method="POST"),
            self._route("/healthz", self._healthz, look=False),
            self._route("/metrics", self._metrics),
        ]
        return Starlette(routes=routes)

    def _route(
        self,
        path: str,
        handler: Callable[[Request], Awaitable[Response]],
        *,
        look: bool = True,
        touch: bool = False,
        method: str = "GET",
    ) -> Route:
        from starlette.routing import Route

        async def guarded(request: Request) -> Response:
            try:
                self._check(request, look=look, touch=touch)
                response = await handler(request)
            except _Refusal as refusal:
                reason = ascii(f"{refusal.reason} (from {self._address(request)})")[1:-1]
                # The server logs each message once a minute.
                logger.info(f"page: {path} answers {refusal.status}: %s", reason)
                response = _json({"error": refusal.reason}, refusal.status)
            response.headers.update({name: text for name, text in _HEADERS.items() if name not in response.headers})
            return response

        return Route(path, guarded, methods=[method])

    def _check(self, request: Request, *, look: bool, touch: bool) -> None:
        headers, cookies = request.headers, request.cookies
        if not self._access.is_from_here(headers):
            raise _Refusal(HTTPStatus.FORBIDDEN, "asked from another origin, or by another name")
        may = self._access.knows_token(headers, cookies) if touch else self._access.may_look(headers, cookies)
        if (look or touch) and not may:
            raise self._without_token(request)

    def _without_token(self, request: Request) -> _Refusal:
        is_guess = self._access.gives_token(request.headers, request.cookies)
        return self._wrong_token(request) if is_guess else _Refusal(HTTPStatus.UNAUTHORIZED, _NEEDS_TOKEN)

    def _wrong_token(self, request: Request, reason: str = _NEEDS_TOKEN) -> _Refusal:
        if self._guesses.take(self._address(request)):
            return _Refusal(HTTPStatus.UNAUTHORIZED, reason)
        return _Refusal(HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens; wait a few seconds")

    def _address(self, request: Request) -> str:
        peer = request.client.host if request.client else ""
        return self._access.address(peer, request.headers.getlist("x-forwarded-for"))

    async def _page(self, request: Request) -> Response:
        may_look = self._access.may_look(request.headers, request.cookies)
        return _file("index.html" if may_look else "login.html", "text/html")

    async def _static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _TYPES:
            raise _Refusal(HTTPStatus.NOT_FOUND, "there is no such file")
        return _file(name, _TYPES[name])

    async def _login(self, request: Request) -> Response:
        given = await _json_object(request)
        if not self._access.is_token(str(given.get("token", ""))):
            raise self._wrong_token(request, "this is not the token")
        response = _json({"ok": True})
        response.set_cookie(COOKIE, self._access.session, httponly=True, samesite="strict")
        return response

    async def _events(self, request: Request) -> Response:
        from starlette.responses import StreamingResponse

        station = self._station(request.query_params.get("station", self._service.stations[0].name))
        if len(self._pages) >= _MAX_PAGES:
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, f"{_MAX_PAGES} pages are open already; close one")
        follower = PageFollower(self._service, station)
        self._pages.add(follower)

        async def updates() -> AsyncIterator[bytes]:
            try:
                while not self._stopping.is_set() and not await request.is_disconnected():
                    yield b"data: " + msgspec.json.encode(follower.update()) + b"\n\n"
                    await asyncio.sleep(_TICK_S)
            finally:
                self._pages.discard(follower)

        unheld = {"X-Accel-Buffering": "no"}  # nginx buffers events otherwise
        return StreamingResponse(updates(), media_type="text/event-stream", headers=unheld)

    async def _acknowledge(self, request: Request) -> Response:
        given = await _json_object(request)
        station, episode = self._station(str(given.get("station", ""))), given.get("episode")
        alarm = station.board.alarm(episode) if station.board is not None and isinstance(episode, int) else None
        if alarm is None:
            raise _Refusal(HTTPStatus.NOT_FOUND, "there is no such episode that waits")
        station.acknowledge(alarm, is_false=given.get("false") is True)
        return _json({"ok": True})

    async def _healthz(self, request: Request) -> Response:
        may_look = self._access.may_look(request.headers, request.cookies)
        is_probe = not self._access.gives_token(request.headers, request.cookies)
        if not (may_look or (is_probe and self._access.may_probe(request.headers))):
            raise self._without_token(request)
        stations = self._service.stations
        faults = {station.name: station.time_faults for station in stations if station.time_faults}
        health: dict[str, object] = {"well": self._service.is_well and not faults}
        if may_look:
            facts = [station.facts() for station in stations]
            reasons = {station.name: station.predictor.health().returned for station in stations}
            optional = {
                "unlike_training": {each.station: each.unlike_training for each in facts if each.unlike_training},
                "time_faults": faults,
                "returned": {name: reason for name, reason in reasons.items() if reason},
            }
            health["stations"] = {each.station: each.state for each in facts}
            health |= {name: reported for name, reported in optional.items() if reported}
        return _json(health, HTTPStatus.OK if health["well"] else HTTPStatus.SERVICE_UNAVAILABLE)

    async def _metrics(self, request: Request) -> Response:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(await asyncio.to_thread(service_metrics, self._service))

    def _station(self, name: str) -> Station:
        for station in self._service.stations:
            if station.name == name:
                return station
        raise _Refusal(HTTPStatus.NOT_FOUND, "there is no such station")


def _json(document: object, status: HTTPStatus = HTTPStatus.OK) -> Response:
    from starlette.responses import Response

    return Response(msgspec.json.encode(document), status_code=status, media_type="application/json")


def _file(name: str, media_type: str) -> Response:
    from starlette.responses import FileResponse

    return FileResponse(_STATIC / name, media_type=media_type)


async def _json_object(request: Request) -> dict[str, Any]:
    from starlette.requests import ClientDisconnect

    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > _MAX_BODY_BYTES:
                raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected at most {_MAX_BODY_BYTES:,} bytes")
    except ClientDisconnect as error:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "the connection ended before the body did") from error
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise _Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Refusal(HTTPStatus.BAD_REQUEST, "expected a JSON object") from error


class PageFollower:
    """What one open page has, so that it gets only news. All stations need boards."""

    def __init__(self, service: Service, station: Station) -> None:
        self._service = service
        self._station = station
        self._sensor = self._bin = self._result = -1
        self._drift, self._drift_age = "", math.inf

    def update(self) -> dict[str, Any]:
        """Return news since the last call; `first` makes the page forget what it has."""
        facts = self._service.facts()
        board = _board(self._station)
        latest = board.latest()
        names = [modality.name for modality in board.modalities]
        sensor = names.index(latest.modality) if latest is not None and latest.modality in names else 0
        is_first = sensor != self._sensor
        if is_first:
            self._sensor, self._bin, self._result, self._drift_age = sensor, -1, -1, math.inf
        rows = []
        for station, station_facts in zip(self._service.stations, facts.stations, strict=True):
            last, open_episodes = _board(station).latest(), _board(station).unacknowledged()
            row = {"name": station.name, "state": station_facts.state, "open": open_episodes}
            rows.append(row | {"status": last.status if last else "", "label": last.label if last else ""})
        return {
            "first": is_first,
            "uptime_s": facts.seconds,
            "stations": rows,
            "station": self._detail(board),
            "sinks": facts.sinks,
        }

    def _detail(self, board: Board) -> dict[str, Any]:
        modality, task = board.modalities[self._sensor], board.task
        news = board.news(sensor=self._sensor, after_bin=self._bin, after_result=self._result)
        self._bin = news.bins[-1].number if news.bins else self._bin
        self._result = news.results[-1].number if news.results else self._result
        facts = self._station.facts()
        timing = facts.latency
        if self._drift_age >= 10:  # not every time: the verdict takes milliseconds
            predictor = self._station.predictor
            entries = [entry.name for entry in predictor.entries if entry.modality.name == modality.name]
            models = predictor.health().models
            self._drift = next((model.drift.verdict for model in models if model.model in entries), "")
            self._drift_age = 0
        self._drift_age += 1
        return {
            "name": self._station.name,
            "modality": modality.name,
            "sensors": len(board.modalities),
            "channels": modality.channels,
            "unit": modality.unit,
            "labels": task.labels,
            "value_unit": (task.unit or "") if task.is_number else None,
            "rate_hz": modality.rate_hz,
            "span_s": SPAN_S,
            "drift": self._drift,
            "seen": news,
            "facts": msgspec.structs.replace(facts, latency=None),
            "latency_s": None if timing is None else (timing.p50_s, timing.p99_s, timing.max_s),
        }


def _board(station: Station) -> Board:
    assert station.board is not None
    return station.board
