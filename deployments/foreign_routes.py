"""Paths that clients of other services try here: why there are none, and which one to take instead."""

import re

API = "/v1"
IMAGES = f"use POST {API}/images/generations."
NO_TEXT = f"This server generates images, and no text, embeddings or sound: {IMAGES}"
NO_COMFYUI = f"This server does not have ComfyUI's API; {IMAGES}"
REASONS = {  # of a path below the base URL of a client, and of all below it
    "/chat": NO_TEXT,
    "/completions": NO_TEXT,
    "/responses": NO_TEXT,
    "/embeddings": NO_TEXT,
    "/audio": NO_TEXT,
    "/videos": f"This server does not generate videos; for images, {IMAGES}",
    "/predictions": f"This server does not have Replicate's API; {IMAGES}",
    "/sdapi": f"This server does not have AUTOMATIC1111's API; {IMAGES}",
    "/prompt": NO_COMFYUI,
    "/object_info": NO_COMFYUI,
}
API_PATHS = (  # the paths of the API, as OpenAPI has them
    *("/files/{name}", "/health", "/hf/models/{model_id}", "/hf/models/{model_id}/health"),
    *("/images/edits", "/images/generations", "/images/variations"),
    *("/inputs", "/inputs/{input_id}", "/inputs/{input_id}/content", "/inputs/{input_id}/extend"),
    *("/jobs", "/jobs/{job_id}", "/jobs/{job_id}/cancel", "/jobs/{job_id}/watch", "/models", "/models/{model_id}"),
    *("/queue", "/ready", "/tokenize"),
)
API_PATH = re.compile(
    "|".join(API_PATHS)
    .replace("{model_id}", ".+")
    .replace("{job_id}", "[^/]+")
    .replace("{input_id}", "[^/]+")
    .replace("{name}", "[^/]+")
)
IMAGE_TO_IMAGE = f"A task has no path of its own: POST the image to {API}/hf/models/MODEL."


def why_missing(path: str) -> str | None:
    """Return why there is no such path; None for a path that clients of other services do not try."""
    rest = path
    while f"{rest}/".startswith(f"{API}/"):  # the base URL of a client may lack it, or have it twice
        rest = rest.removeprefix(API)
    if rest.startswith("/hf/") and rest.endswith("/image-to-image"):
        return IMAGE_TO_IMAGE
    for tried, reason in REASONS.items():
        if f"{rest}/".startswith(f"{tried}/"):
            return reason
    is_own = API_PATH.fullmatch(rest) is not None
    return f"There is no such path: did you mean {API}{rest[:200]}?" if is_own and path != API + rest else None
