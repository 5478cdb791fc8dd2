"""The pages of the service. Every answer, errors included, names the index: in a header, and JSON ones in the body."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from components.contracts.errors import SearchError, UserError
from components.contracts.passage import ScoredPassage
from components.retriever.config import RetrieverConfig
from components.retriever.metrics import CONTENT_TYPE
from components.retriever.query import read_body
from components.retriever.service import Overloaded, RetrieverService
from components.search.http_client import DIGEST_HEADER, DIGEST_KEY

PATHS = ("/retrieve", "/healthz", "/readyz", "/metrics")
_RETRY_AFTER_S = 1


class Pages:
    """The handlers over one service."""

    def __init__(self, service: RetrieverService, config: RetrieverConfig) -> None:
        self._service, self._config = service, config

    async def retrieve(self, request: Request) -> Response:
        """`POST /retrieve`: passages for every query, best first."""
        started_s = time.monotonic()
        try:
            asked = read_body(await self._body(request), self._config)
            found = await self._service.retrieve(asked.queries, asked.top_k)
            answer = {"result": [[_hit(hit, asked.return_scores) for hit in hits] for hits in found]}
            response = self._answer(request, 200, answer)
        except UserError as error:
            response = self._failure(request, 400, "refused", str(error))
        except Overloaded as error:
            response = self._failure(request, 503, "overloaded" if self._service.is_ready else "not_ready", str(error))
            response.headers["Retry-After"] = str(_RETRY_AFTER_S)
        except SearchError as error:
            response = self._failure(request, 500, "search", str(error))
        self._service.metrics.request_seconds.observe(time.monotonic() - started_s)
        return response

    async def healthz(self, request: Request) -> Response:
        """`GET /healthz`: 200, or 503 when the engine does not give back what it was asked."""
        is_healthy = self._service.is_healthy
        return self._answer(request, 200 if is_healthy else 503, {"status": "ok" if is_healthy else "stuck"})

    async def readyz(self, request: Request) -> Response:
        """`GET /readyz`: 200 once the index is open and answered a query, 503 before."""
        is_ready = self._service.is_ready
        return self._answer(request, 200 if is_ready else 503, {"ready": is_ready, "state": self._service.state})

    async def metrics(self, request: Request) -> Response:
        """`GET /metrics`: for Prometheus."""
        self._count(request, 200)
        return Response(self._service.metrics_text(), headers=self._headers(CONTENT_TYPE))

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer for a page that does not exist, or not for this method."""
        assert isinstance(error, HTTPException)
        response = self._answer(request, error.status_code, {"error": f"{error.detail}. There are {', '.join(PATHS)}."})
        response.headers.update(error.headers or {})
        return response

    async def _body(self, request: Request) -> bytes:
        data = bytearray()
        try:
            async with asyncio.timeout(self._config.body_timeout_s):
                async for chunk in request.stream():
                    data += chunk
                    if len(data) > self._config.max_body_bytes:
                        raise UserError("The body is too large", f"at most {self._config.max_body_bytes} bytes")
        except TimeoutError:
            raise UserError("The body did not arrive in time", f"{self._config.body_timeout_s} s") from None
        except ClientDisconnect:
            raise UserError("The client went away before its request was complete") from None
        return bytes(data)

    def _failure(self, request: Request, status: int, reason: str, message: str) -> Response:
        self._service.metrics.errors.add(reason=reason)
        return self._answer(request, status, {"error": message})

    def _answer(self, request: Request, status: int, content: dict[str, Any]) -> Response:
        self._count(request, status)
        content = content | {DIGEST_KEY: self._service.digest}
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return Response(text.encode("utf-8", "replace"), status, self._headers("application/json"))

    def _headers(self, content_type: str) -> dict[str, str]:
        digest = self._service.digest
        return {"Content-Type": content_type} | ({DIGEST_HEADER: digest} if digest else {})

    def _count(self, request: Request, status: int) -> None:
        path = request.url.path if request.url.path in PATHS else "other"
        self._service.metrics.requests.add(path=path, status=str(status))


def retriever_app(service: RetrieverService, config: RetrieverConfig) -> Starlette:
    """Return the ASGI application; `service` is opened when it starts and closed when it stops."""
    pages = Pages(service, config)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.start()
        yield
        service.close()

    return Starlette(
        routes=[
            Route("/retrieve", pages.retrieve, methods=["POST"]),
            Route("/healthz", pages.healthz),
            Route("/readyz", pages.readyz),
            Route("/metrics", pages.metrics),
        ],
        exception_handlers={HTTPException: pages.refuse},
        lifespan=lifespan,
    )


def _hit(hit: ScoredPassage, return_scores: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"document": {"id": hit.passage.id, "contents": hit.passage.contents}}
    return (answer | {"score": hit.score}) if return_scores else answer
