"""`python -m ops.openapi > docs/openapi.json`: the description of the HTTP API, as the service itself gives it."""

import json
from typing import Any

from deployments.access import AccessPolicy
from deployments.api.deployment import create_api
from deployments.config import InputsConfig
from deployments.dispatcher.client import DispatcherClient, ServeCalls
from deployments.image_store import ImageStore
from deployments.input_intake import InputIntake
from deployments.input_store import InputStore


def description() -> dict[str, Any]:
    """Return the OpenAPI document. Nothing is started for it."""
    client = DispatcherClient(ServeCalls.to_app(""))
    intake = InputIntake(client, InputStore("memory://"), InputsConfig())
    return create_api(client, ImageStore("memory://"), intake, dict, [], AccessPolicy()).openapi()


if __name__ == "__main__":
    print(json.dumps(description(), indent=1, ensure_ascii=False))
