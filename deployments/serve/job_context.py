"""In whose name a job's work is done: it outlives the request that brought it, and any other may start its pictures."""

from contextvars import Context, copy_context
from typing import Any

from ray.serve import context as serve_context


def context_of(job_id: str) -> Context:
    """Return the context of a job that the present request brings.

    Calls and log lines in it have the job's id for a request id, and belong to the request's trace. That the request's
    caller leaves ends nothing in it.
    """
    application = serve_context._get_serve_request_context().app_name
    own = serve_context._RequestContext(request_id=job_id, app_name=application)  # there is no public way
    variable: Any = serve_context._serve_request_context
    context = copy_context()
    context.run(variable.set, own)
    return context
