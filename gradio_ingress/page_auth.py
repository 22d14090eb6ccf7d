"""The owner of the page's requests, named by a cookie. With keys on, the page asks for a key."""

import secrets
from contextlib import ExitStack
from html import escape

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.access import AccessPolicy
from deployments.error_responses import respond
from deployments.keys import COOKIE, bearer_of, cookie_of, digest_of, owner_of_cookie, peer_of
from deployments.open_requests import OpenRequests, until_removed
from deployments.origins import check_host, check_origin
from models.errors import DarkroomError

LOGIN = "/login"
A_YEAR_S = 365 * 86400
WRONG = "That is no key of this service."


def owner_of(request: gr.Request) -> str:
    """Return whose jobs a browser may see and end; without cookies, a tab's."""
    return owner_or_tab(request.state.owner, request.session_hash)


def owner_or_tab(owner: str | None, session: str | None) -> str:
    """Return the owner of a request, or of Gradio's session where the request has none."""
    return owner or f"tab:{digest_of(str(session))[:32]}"


class PageAuthMiddleware:
    """Puts the owner into a request's state, as the API does. Pure ASGI: anything else would buffer streams.

    Without keys, a browser gets a name at its first request. With keys, it gets a login form until it has sent a key;
    programs send theirs as `Authorization: Bearer …`. Requests of other sites' pages that would change something are
    refused; without keys, `Host` must be allowed. An owner's open requests are counted, and end with the owner's key.
    """

    def __init__(self, app: ASGIApp, access: AccessPolicy) -> None:
        self._app = app
        self._keys = access.keys
        self._allowed_hosts = access.allowed_hosts
        self._open_requests = OpenRequests(access.max_ongoing_requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = MutableHeaders(scope=scope)
        key = bearer_of(headers.get("authorization", "")) if self._keys is not None else ""
        secret = key or cookie_of(headers.get("cookie", ""))
        owner = owner_of_cookie(secret, self._keys)
        del headers["cookie"]  # Gradio and FastAPI would read it again, with `http.cookies`
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        with ExitStack() as while_open:
            try:
                check_origin(headers, scope["method"])
                if self._keys is None:
                    check_host(headers, self._allowed_hosts)
                elif owner is None or path == LOGIN:
                    await (await self._asked(Request(scope, receive), path))(scope, receive, send)
                    return
                address = peer_of(scope) if self._keys is None else ""
                while_open.enter_context(self._open_requests.counted(owner or address, address))
            except DarkroomError as error:
                await respond(error)(scope, receive, send)
                return
            if owner is None and path in ("", "/"):
                name = secrets.token_urlsafe(24)
                owner, send = owner_of_cookie(name, None), _with_cookie(send, _cookie(name, scope))
            scope.setdefault("state", {})["owner"] = owner
            await self._app(scope, until_removed(self._keys, secret, receive), send)

    async def _asked(self, request: Request, path: str) -> Response:
        """Take a key, or ask for one."""
        if request.method != "POST" or path != LOGIN:
            return _form("", 200 if path in ("", "/", LOGIN) else 401)
        try:
            async with request.form(max_files=0, max_fields=1) as form:
                key = str(form.get("key", "")).strip()
        except (HTTPException, MultiPartException, LookupError, ValueError):  # no such form, or none of its characters
            return _form(WRONG, 400)
        if owner_of_cookie(key, self._keys) is None:
            return _form(WRONG, 401)
        return RedirectResponse("./", 303, headers={"Set-Cookie": _cookie(key, request.scope)})


def _cookie(value: str, scope: Scope) -> str:
    """What sets the cookie: no script reads it, and other sites' pages send it only with a plain link."""
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{COOKIE}={value}; Path=/; Max-Age={A_YEAR_S}; HttpOnly; SameSite=Lax{secure}"


def _with_cookie(send: Send, cookie: str) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).append("Set-Cookie", cookie)
        await send(message)

    return sending


def _form(problem: str, status: int) -> HTMLResponse:
    said = f'<p role="alert">{escape(problem)}</p>' if problem else ""
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Darkroom</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<style>:root{color-scheme:light dark}body{font:1rem system-ui;max-width:24rem;margin:20vh auto;padding:0 1rem}"
        "input,button{font:inherit;width:100%;box-sizing:border-box;min-height:44px;margin-top:.5rem}</style>"
        f'<h1>Darkroom</h1>{said}<form method="post" action="login"><label for="key">API key</label>'
        '<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>'
        "<button>Go in</button></form></html>",
        status,
        headers={"Cache-Control": "no-store"},
    )
