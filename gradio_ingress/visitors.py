"""Who uses the page: a cookie names the owner of a browser's jobs. With keys on, the page asks for one."""

import secrets
from collections.abc import Collection
from contextlib import ExitStack
from html import escape

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.error_responses import respond
from deployments.keys import COOKIE, Keyring, bearer_of, cookie_of, digest_of, owner_of_cookie, peer_of
from deployments.open_requests import OpenRequests, until_removed
from deployments.origins import check_host, check_origin
from models.errors import DarkroomError

LOGIN = "/login"
A_YEAR_S = 365 * 86400
WRONG = "That is no key of this service."


def owner_of(request: gr.Request) -> str:
    """Return whose jobs a browser may see and end; without cookies, a tab's."""
    return request.state.owner or f"tab:{digest_of(str(request.session_hash))[:32]}"


class Visitors:
    """Puts the owner into a request's state, as the API does. Pure ASGI: anything else would buffer streams.

    Without keys, a browser that comes for the first time gets a name. With keys, it gets a form until it has sent one;
    programs send theirs as `Authorization: Bearer …`. Other sites' pages may send nothing that changes something; and
    without keys, `Host` must be one of ours. An owner's open requests are counted, and end with the owner's key.
    """

    def __init__(
        self,
        app: ASGIApp,
        open_requests: OpenRequests,
        keys: Keyring | None = None,
        allowed_hosts: Collection[str] = (),
    ) -> None:
        self._app = app
        self._open_requests = open_requests
        self._keys = keys
        self._allowed_hosts = allowed_hosts

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
