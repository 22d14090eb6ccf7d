"""Whose a request is: decided once, before anything else looks at it. Pure ASGI: anything else would buffer streams."""

from fastapi import Request
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.api.errors import path_of, respond
from deployments.keys import Keyring, bearer_of, cookie_of, owner_of_cookie
from models.errors import Unauthorized

OPEN = ("/health", "/ready")  # probes have no key
SAFE = ("GET", "HEAD")


class Owners:
    """Puts the owner into a request's state, or answers 401 where keys are on and none was given.

    With keys, the owner is the key's name. A key comes as `Authorization: Bearer …`; where nothing can be changed by
    it, also as the page's cookie, so that pages can show pictures. Without keys the owner is the page's browser, else
    the address of the caller.
    """

    def __init__(self, app: ASGIApp, keys: Keyring | None = None) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] == "http":
            path = path_of(scope)
            owner = self._owner(scope)
            if owner is None and path not in OPEN:
                await respond(Unauthorized(), path)(scope, receive, send)
                return
            scope.setdefault("state", {})["owner"] = owner
        await self._app(scope, receive, send)

    def _owner(self, scope: Scope) -> str | None:
        headers = MutableHeaders(scope=scope)
        cookie = cookie_of(headers.get("cookie", ""))
        del headers["cookie"]  # FastAPI would read it again, with `http.cookies`
        if self._keys is None:
            host = scope["client"][0] if scope.get("client") else "unknown"
            return owner_of_cookie(cookie, None) or f"peer:{host}"
        secret = bearer_of(headers.get("authorization", ""))
        if not secret:
            return owner_of_cookie(cookie, self._keys) if scope["method"] in SAFE else None
        key = self._keys.find(secret)
        return key.owner if key else None


def owner_of(request: Request) -> str:
    """Return whose jobs a caller may see."""
    return request.state.owner
