"""What Serve's proxies are made of (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`)."""

from starlette.middleware import Middleware
from uvicorn.config import HTTP_PROTOCOLS

from deployments.api.door import Door
from gradio_ingress.assets import Assets


def middlewares() -> list[Middleware]:
    """Return what a proxy wraps around itself, the outermost last.

    Serve calls this before it starts uvicorn and gives uvicorn no choice of protocol, so the choice is made here.
    """
    HTTP_PROTOCOLS["auto"] = "deployments.api.connection:Connection"
    return [Middleware(Assets), Middleware(Door)]
