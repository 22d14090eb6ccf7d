"""Unknown query parameters are refused, as unknown fields of a body are: without its filter a list has everything."""

from difflib import get_close_matches

from fastapi import Request

from deployments.api.auth import PROBES
from models.errors import InvalidRequest
from models.validation import MAX_NAME

LINK = "link"  # whoever has a job's link may send it with each request
ANY_PARAMETERS = {  # paths whose addresses others add to: sites where one is shared, monitors, libraries of EventSource
    *PROBES,
    "/files/{name}",
    "/inputs/{input_id}/content",
    "/jobs/{job_id}/watch",
}


async def check_query(request: Request) -> None:
    """Compare the names of a GET request's parameters with those that OpenAPI has for its path.

    Raises:
        InvalidRequest: names one that is unknown, and the known ones.
    """
    if request.method != "GET" or not request.query_params.keys() - {LINK}:
        return
    path = request.scope["route"].path_format
    described = request.app.openapi()["paths"].get(path)
    if described is None or path in ANY_PARAMETERS:
        return
    known = [each["name"] for each in described["get"].get("parameters", ()) if each["in"] == "query"]
    for name in request.query_params:
        if name not in {*known, LINK}:
            raise InvalidRequest(_message(name[:MAX_NAME], known), name[:MAX_NAME])


def _message(name: str, known: list[str]) -> str:
    if not known:
        return f"{name} is not a known query parameter: this path takes none."
    near = get_close_matches(name, known, n=1)
    question = f" Did you mean {near[0]}?" if near else ""
    return f"{name} is not a known query parameter; this path takes {', '.join(known)}.{question}"
