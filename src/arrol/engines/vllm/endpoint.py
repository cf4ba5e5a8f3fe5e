"""``POST /arrol/estimator``: a new head for a running ``vllm serve``, without its development mode.

Added by ``--middleware arrol.engines.vllm.HeadEndpoint``. vLLM's group of entry points ``vllm.endpoint_plugins`` is not
used: a server that does not name the plug-in in ``VLLM_PLUGINS`` warns of it at each start.
"""

from __future__ import annotations

import base64
import hmac
import os
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import JSONResponse

from arrol.engines.vllm import compat

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

PATH = "/arrol/estimator"
TOKEN_VARIABLE = "ARROL_PUSH_TOKEN"
"""Environment variable; a client sends its value as ``Authorization: Bearer VALUE``. Without it there is no route."""
MAX_BYTES = 64 * 2**20
"""Largest body of a request."""


class HeadEndpoint:
    """ASGI middleware of vLLM's server. The body is a file of ``arrol export``: safetensors and JSON, no pickle."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._token = app, os.environ.get(TOKEN_VARIABLE, "")
        if not self._token:
            compat.logger.warning("arrol: no route %s; set %s to a secret", PATH, TOKEN_VARIABLE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a push; pass all other requests on."""
        is_push = scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST"
        if not (is_push and self._token):
            await self._app(scope, receive, send)
            return
        answer = await self._push(Request(scope, receive))
        await answer(scope, receive, send)

    async def _push(self, request: Request) -> JSONResponse:
        """Set the estimator in the body: its version, or status 400, 401 or 413 with the reason."""
        sent = request.headers.get("authorization", "")
        if not hmac.compare_digest(sent.encode(), f"Bearer {self._token}".encode()):
            return JSONResponse({"refused": f"authorization: not Bearer {TOKEN_VARIABLE}"}, 401)
        blob = bytearray()
        async for piece in request.stream():
            blob += piece
            if len(blob) > MAX_BYTES:
                return JSONResponse({"refused": f"body: longer than {MAX_BYTES} bytes"}, 413)
        text = base64.b64encode(blob).decode()
        answers = await request.app.state.engine_client.collective_rpc("arrol_set_estimator", args=(text,))
        refused = [answer for answer in answers if "refused" in answer]
        return JSONResponse(refused[0], 400) if refused else JSONResponse(answers[0])
