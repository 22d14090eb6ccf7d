"""Somebody who calls the HTTP API, over the real Dispatcher and a pipeline that draws plain squares."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from PIL import Image

from deployments.access import AccessPolicy
from deployments.api.deployment import create_api
from deployments.config import InputsConfig, Sizes
from deployments.dispatcher.client import DispatcherClient
from deployments.image_store import ImageStore
from deployments.input_intake import InputIntake
from deployments.input_store import InputStore
from deployments.keys import Keyring
from deployments.serve.replicas import ApplicationState, DeploymentState
from tests.fakes import INPUTS, FakePipeline, LocalCalls, a_dispatcher

RUNS = DeploymentState(status="HEALTHY", running=1, wanted=1)
STARTS = DeploymentState(status="UPDATING", running=0, wanted=1)
SLEEPS = DeploymentState(status="HEALTHY", running=0, wanted=0)
STAGES_RUN = dict.fromkeys(("Model", "TextEncoder", "Denoiser", "Vae"), RUNS)
GENERATION = ApplicationState("RUNNING", {"Dispatcher": RUNS, "ApiIngress": RUNS})


class Present:
    """Passes on to the object of the test that runs."""

    target: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.target, name)


class SharedApp:
    """An app for all tests that leave its options as they are: to build one takes longer than most tests."""

    def __init__(self) -> None:
        self._present: Any = [Present(), Present(), Present(), Present()]
        self._app: FastAPI | None = None

    def over(self, *behind: object) -> FastAPI:
        """Return the app, over a client, a store, an intake and an `Api` until it is put over others."""
        for present, target in zip(self._present, behind, strict=True):
            present.target = target
        client, images, intake, api = self._present
        if self._app is None:
            self._app = create_api(client, images, intake, lambda: api.applications, ["shapes"], AccessPolicy())
        return self._app


class Api:
    """The API, and what stands behind it."""

    def __init__(
        self,
        root: Path,
        keys: Path | None = None,
        cors_origins: tuple[str, ...] = (),
        public_url: str | None = None,
        aliases: Mapping[str, str] = {},
        sizes: Sizes = "exact",
        inputs: InputsConfig = INPUTS,
        shared: SharedApp | None = None,
        **queue: Any,
    ) -> None:
        images = ImageStore(root)
        self.pipeline = FakePipeline(images)
        self.dispatcher = a_dispatcher(self.pipeline, keys=keys, aliases=aliases, images=root, inputs=inputs, **queue)
        self.applications = {"generation": GENERATION, "shapes": ApplicationState("RUNNING", STAGES_RUN)}
        client = DispatcherClient(LocalCalls(self.dispatcher))
        access = AccessPolicy(keys=keys and Keyring(keys), cors_origins=cors_origins)
        self.intake = InputIntake(client, InputStore(root), inputs)
        if shared:
            self.app = shared.over(client, images, self.intake, self)
        else:
            self.app = create_api(
                client,
                images,
                self.intake,
                lambda: self.applications,
                ["shapes"],
                access,
                public_url=public_url,
                sizes=sizes,
            )
        self.http = self.caller("127.0.0.1")

    def caller(self, address: str) -> httpx.AsyncClient:
        """Somebody who calls from an address."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(address, 1))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def submit(self, **fields: Any) -> dict[str, Any]:
        """Queue a job; return its body."""
        answer = await self.http.post("/jobs", json={"prompt": "a circle", **fields})
        assert answer.status_code == 202, answer.text
        return answer.json()

    async def generate(self, **fields: Any) -> httpx.Response:
        """Ask for pictures as a client of OpenAI does."""
        return await self.http.post("/images/generations", json={"prompt": "a circle", **fields})

    async def ended(self, job: dict[str, Any]) -> dict[str, Any]:
        """How a job ended."""
        return events(await self.http.get(f"/jobs/{job['id']}/watch"))[-1][1]

    async def assert_idle(self) -> None:
        """Nothing was queued, by anyone."""
        queue = (await self.http.get("/queue")).json()
        assert (queue["waiting"], queue["running"], queue["eta_s"]) == (0, 0, 0)
        assert (await self.http.get("/jobs")).json()["data"] == []
        assert self.pipeline.started == []


def events(answer: httpx.Response) -> list[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    found = []
    for block in answer.text.split("\n\n")[:-1]:
        lines = [line.partition(": ")[::2] for line in block.split("\n") if not line.startswith(":")]
        names = [value for field, value in lines if field == "event"]
        data = [value for field, value in lines if field == "data"]
        if data:
            found.append((names[0] if names else "message", json.loads("\n".join(data))))
    return found


def problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The error of an answer in OpenAI's shape, which says nothing of our insides."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    assert error["message"]
    assert not re.search(r"Traceback|File \"|\.py|site-packages", answer.text)
    return error


def size_of(content: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image.size
