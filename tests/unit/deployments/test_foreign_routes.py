"""What clients are told that look for the routes of other services."""

import pytest

from deployments.foreign_routes import API_PATHS, why_missing
from ops.openapi import description


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/v1/chat/completions", "generates images, and no text"),
        ("/chat/completions", "generates images, and no text"),
        ("/v1/v1/chat/completions", "generates images, and no text"),
        ("/v1/responses", "generates images, and no text"),
        ("/v1/audio/speech", "generates images, and no text"),
        ("/sdapi/v1/txt2img", "AUTOMATIC1111"),
        ("/v1/sdapi/v1/options", "AUTOMATIC1111"),
        ("/v1/predictions", "Replicate"),
        ("/prompt", "ComfyUI"),
        ("/v1/hf/models/shapes/pipeline/image-to-image", "has no path of its own"),
    ],
)
def test_a_route_of_another_service_has_a_reason_and_a_remedy(path: str, words: str) -> None:
    reason = why_missing(path)
    assert reason is not None
    assert words in reason
    assert "POST" in reason


@pytest.mark.parametrize("base", ["", "/v1/v1"])
@pytest.mark.parametrize(
    "path", ["/images/edits", "/images/generations", "/models", "/hf/models/shapes", "/jobs/job_1/watch"]
)
def test_a_base_url_that_is_wrong_is_named_with_the_right_one(base: str, path: str) -> None:
    assert why_missing(base + path) == f"There is no such path: did you mean /v1{path}?"


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/v1", "/v1/", "/gradio_api/queue/join", "/assets/index.js", "/config", "/v1x/models", "/modelsx", "//"),
        *("/v1/hf/models/owner/image-to-image-xl", "/imagesx/edits", "/v1/images", "/v1/files/prompt"),
        *(
            "/queue/join",
            "/v1/v1/queue/join",
            "/images/foo",
            "/v1/v1/images",
            "/files",
            "/jobs/job_1/images",
            "/hf/shapes",
        ),
    ],
)
def test_other_paths_are_left_to_the_applications(path: str) -> None:
    assert why_missing(path) is None


def test_all_paths_of_the_api_are_left_to_it_and_known_without_their_base() -> None:
    paths = description()["paths"]
    assert [path for path in paths if why_missing(f"/v1{path}")] == []
    assert set(paths) == set(API_PATHS)
    assert [path for path in paths if why_missing(path) is None] == []
