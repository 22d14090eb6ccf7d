"""What Serve's proxies wrap around themselves (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`)."""

from starlette.middleware import Middleware

from deployments.api.door import Door
from gradio_ingress.assets import Assets


def middlewares() -> list[Middleware]:
    """Return them, the outermost last."""
    return [Middleware(Assets), Middleware(Door)]
