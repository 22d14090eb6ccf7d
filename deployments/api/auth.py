"""The owner of a request: determined once, before anything is read. Pure ASGI: anything else would buffer streams."""

from contextlib import ExitStack

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.access import AccessPolicy
from deployments.error_responses import path_of, respond
from deployments.errors import Unauthorized
from deployments.keys import bearer_of, cookie_of, owner_of_cookie, peer_of
from deployments.open_requests import OpenRequests, until_removed
from deployments.origins import check_host, check_origin
from models.errors import DarkroomError

PROBES = ("/health", "/ready")  # they have no key, and room where no other request has
SAFE = ("GET", "HEAD")
UNKNOWN_KEY = "This API key is not known here. Ask the operator of the service for one."


class AuthMiddleware:
    """Puts the owner into a request's state, or answers 401 if keys are on and none was given.

    With keys, the owner is the key's. A key is sent as `Authorization: Bearer …`. The page's cookie serves too for
    reading, so that the page can show images, and for uploading one. A file whose address has a job's link needs no
    key. Without keys the owner is the page's browser, else the caller's address, and a request is answered 403 if its
    `Host` is not allowed. It is answered 403 as well if another site's page sent it to change something by a cookie or
    an address: a browser adds no `Authorization` header to such a page's requests.

    An owner with too many open requests is answered 429, and can still end jobs. Streams end once their key is removed.
    """

    def __init__(self, app: ASGIApp, access: AccessPolicy) -> None:
        self._app = app
        self._keys = access.keys
        self._allowed_hosts = access.allowed_hosts
        self._cors_origins = access.cors_origins
        self._open_requests = OpenRequests(access.max_ongoing_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = path_of(scope)
        with ExitStack() as while_open:
            try:
                owner, secret = self._caller(scope)
                scope.setdefault("state", {})["owner"] = owner
                if path not in PROBES:
                    if owner is None:
                        raise Unauthorized(UNKNOWN_KEY) if Headers(scope=scope).get("authorization") else Unauthorized()
                    address = peer_of(scope) if self._keys is None else ""
                    if not _ends_a_job(scope, path):
                        while_open.enter_context(self._open_requests.counted(owner, address))
            except DarkroomError as error:
                await respond(error, path)(scope, receive, send)
                return
            await self._app(scope, until_removed(self._keys, secret, receive), send)

    def _caller(self, scope: Scope) -> tuple[str | None, str]:
        """Return the owner, None where there is none, and the secret that says so. Raises Forbidden."""
        headers = MutableHeaders(scope=scope)
        cookie = cookie_of(headers.get("cookie", ""))
        del headers["cookie"]  # FastAPI would read it again, with `http.cookies`
        if self._keys is None:
            check_host(headers, self._allowed_hosts)
            check_origin(headers, scope["method"], self._cors_origins)
            return owner_of_cookie(cookie, None) or peer_of(scope), cookie
        secret = bearer_of(headers.get("authorization", ""))
        if secret:
            key = self._keys.find(secret)
            return key.owner if key else None, secret
        if scope["method"] not in SAFE:
            if not _uploads(scope):
                return None, cookie
            check_origin(headers, scope["method"])
        return owner_of_cookie(cookie, self._keys) or _visitor(scope), cookie


def _visitor(scope: Scope) -> str | None:
    """Return an owner without jobs for a caller who fetches a file by a link, which its route checks; else None."""
    is_by_link = path_of(scope).startswith("/files/") and QueryParams(scope["query_string"]).get("link")
    return f"link:{peer_of(scope)}" if is_by_link else None


def _uploads(scope: Scope) -> bool:
    path = path_of(scope)
    return scope["method"] == "POST" and (path == "/inputs" or path.startswith("/inputs/"))


def _ends_a_job(scope: Scope, path: str) -> bool:
    return scope["method"] == "DELETE" or (scope["method"] == "POST" and path.endswith("/cancel"))


def owner_of(request: Request) -> str:
    """Return whose jobs a caller may see."""
    return request.state.owner
