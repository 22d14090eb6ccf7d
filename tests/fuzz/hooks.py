"""What Schemathesis is told of this service."""

import schemathesis

PLANNED = ("deadline_exceeded",)  # errors over 499 that a request can ask for


@schemathesis.check
def no_unplanned_server_error(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """A 5xx is one that was asked for."""
    if response.status_code >= 500:
        body = response.json()
        code = body["error"]["code"] if isinstance(body["error"], dict) else body["error"]
        assert code in PLANNED or "time was over" in str(code), f"{response.status_code}: {body}"
