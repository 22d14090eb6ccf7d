"""`python -m ops.openapi > docs/openapi.json`: the description of the HTTP API, as the service itself gives it."""

import json
from typing import Any

from deployments.access import AccessPolicy
from deployments.api.deployment import create_api
from deployments.dispatcher.client import DispatcherClient, ServeCalls
from deployments.image_store import ImageStore


def description() -> dict[str, Any]:
    """Return the OpenAPI document. Nothing is started for it."""
    return create_api(
        DispatcherClient(ServeCalls.to_app("")), ImageStore("memory://"), dict, [], AccessPolicy()
    ).openapi()


if __name__ == "__main__":
    print(json.dumps(description(), indent=1, ensure_ascii=False))
