"""Finished pictures over HTTP."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.deployments.api.caller import Api, problem, size_of


async def finished_file(api: Api, **fields: Any) -> str:
    end = await api.ended(await api.submit(**fields))
    return end["images"][0]["url"].removeprefix("/v1")


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
async def test_a_file_has_its_type_and_can_be_kept_for_ever(api: Api, output_format: str) -> None:
    path = await finished_file(api, output_format=output_format)
    answer = await api.http.get(path)
    assert answer.headers["content-type"] == f"image/{output_format}"
    assert "immutable" in answer.headers["cache-control"]
    assert size_of(answer.content) == (4, 4)


async def test_a_file_that_the_caller_has_is_not_sent_again(api: Api) -> None:
    path = await finished_file(api)
    tag = (await api.http.get(path)).headers["etag"]
    again = await api.http.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await api.http.get(path, headers={"If-None-Match": '"another"'})).status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "job_00000000000000000000000000000000-0-1.png",
        "x",
        "secret.png",
        "%2e%2e%2fsecret.png",
        "..%2Fsecret.png",
        "....//secret.png",
        "%00",
        "job_00000000000000000000000000000000-0-1.png%0A",
        ".job_00000000000000000000000000000000-0-1.png.partial",
        "x" * 3000,
    ],
)
async def test_a_name_that_is_no_picture_is_a_404(api: Api, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path.parent / "secret.png").write_bytes(b"secret")
    answer = await api.http.get(f"/files/{name}")
    assert len(problem(answer, 404)["message"]) < 300
