"""The middleware of Serve's proxies (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`)."""

from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS

from deployments.proxy.request_guard import RequestGuard
from gradio_ingress.assets import Assets


def middlewares() -> list[Middleware]:
    """Return the middleware that a proxy wraps around itself, the outermost last.

    Serve calls this before it starts uvicorn and does not choose uvicorn's protocol, so this chooses it.
    """
    HTTP_PROTOCOLS["auto"] = "deployments.proxy.connection:Connection"
    return [Middleware(Assets), Middleware(RequestGuard)]
