"""Which host names a request may carry, which web pages may send one, and at which address a caller sees the service.

A page of any site can call a service on its visitor's machine. DNS rebinding gives that page the service's answers: its
own name resolves to the service's address, and the browser takes both for one origin. Such a request carries the
page's name in `Host`, so the name is what is checked. Without rebinding, a page can still send requests blindly:
`Sec-Fetch-Site` and `Origin` say where those come from.

Sources: RFC 9110 §7.2, RFC 6454 §7, https://www.w3.org/TR/fetch-metadata/.
"""

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from deployments.errors import Forbidden
from deployments.jobs import ImageResult, Job

ANY_HOST = "*"  # in `allowed_hosts`
SAFE = ("GET", "HEAD", "OPTIONS")


def check_host(headers: Headers, allowed: Collection[str]) -> None:
    """Check that a request names this service by an IP address, `localhost`, a name below it, or one of `allowed`.

    No page can be served from a name like that and be an attacker's at once. A request without `Host` comes from no
    browser.

    Raises:
        Forbidden: another name.
    """
    host = headers.get("host")
    if not host or ANY_HOST in allowed:
        return
    name = _name(host)
    if not (_is_address(name) or f".{name}".endswith(".localhost") or name in allowed):
        raise Forbidden(
            f"Host {name[:100] or host[:100]!r} is not allowed. Without API keys the service answers to IP addresses, "
            "localhost and the names in allowed_hosts of its configuration. Add this name there, or use API keys."
        )


def check_origin(headers: Headers, method: str, allowed: Collection[str] = ()) -> None:
    """Check that what changes something comes from no other site's page but of `allowed` origins. Programs send neither
    header.

    Raises:
        Forbidden: it does.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if method in SAFE or origin in allowed:
        return
    if site is not None:
        is_own = site in ("same-origin", "none")
    else:  # browsers send it to HTTPS and to loopback alone
        is_own = origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    if not is_own:
        raise Forbidden(
            f"A page of another site ({(origin or 'unknown')[:100]}) sent this {method} request. Send it from the "
            "service's own page or from a program. Pages of other sites can call the HTTP API if cors_origins of the "
            "service's configuration names them."
        )


def base_url(scope: Scope, public_url: str | None = None) -> str:
    """Return `public_url`, or the scheme and host that a request was sent to: `https://images.example.org:8443`.

    Behind a proxy they are the caller's if the proxy passes `Host` on, and is one whose `X-Forwarded-Proto` uvicorn
    trusts.
    """
    if public_url:
        return public_url
    host = Headers(scope=scope).get("host") or "{}:{}".format(*scope["server"])
    return f"{scope['scheme']}://{host}"


def link_to(job: Job, image: ImageResult) -> str:
    """Return an image's path with the job's read-only link: whoever may see the job may see the file."""
    return f"{image.url}?link={job.link}"


def _name(host: str) -> str:
    """Return the name in a `Host` header, lower case, without port; empty where it has none."""
    try:
        return (urlsplit(f"//{host}").hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
