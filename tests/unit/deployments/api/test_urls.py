"""Addresses of images that OpenAI's dialect gives: absolute, and readable by whoever has one."""

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from deployments.origins import base_url
from tests.unit.deployments.api.caller import Api, problem, size_of
from tests.unit.deployments.api.test_auth import Keyed


def path_of(url: str) -> str:
    """The path and query of an address within the application."""
    return url[url.index("/v1/") + len("/v1") :]


async def test_the_address_of_an_image_opens_anywhere_and_changes_nothing(api: Api) -> None:
    [image] = (await api.generate(response_format="url")).json()["data"]
    url = urlsplit(image["url"])
    assert (url.scheme, url.netloc) == ("http", "localhost")
    stranger = api.caller("10.0.0.2")
    for cookie in ({}, {"Cookie": "darkroom=another-browser"}):
        answer = await stranger.get(path_of(image["url"]), headers=cookie)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        assert size_of(answer.content) == (4, 4)
    [job] = (await api.http.get("/jobs")).json()["data"]
    problem(await stranger.delete(f"/jobs/{job['id']}?{url.query}"), 404)


async def test_the_address_of_an_image_needs_no_key_where_keys_are_on(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path)
    answer = await keyed.call(keyed.ada, "POST", "/images/generations", json={"prompt": "a", "response_format": "url"})
    path = path_of(answer.json()["data"][0]["url"])
    assert size_of((await keyed.call(None, "GET", path)).content) == (4, 4)
    assert (await keyed.call(None, "HEAD", path)).status_code == 200
    assert (await keyed.call(keyed.bob, "GET", path)).status_code == 200
    file = path.partition("?")[0]
    for query in ("", "?link=", "?links=x"):
        problem(await keyed.call(None, "GET", file + query), 401)
    for query in ("?link=wrong", "?link=%C3%A9"):
        problem(await keyed.call(None, "GET", file + query), 404)
    problem(await keyed.call("wrong", "GET", path), 401)


async def test_a_link_to_a_file_opens_nothing_else_without_a_key(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path)
    answer = await keyed.call(keyed.ada, "POST", "/images/generations", json={"prompt": "a", "response_format": "url"})
    link = parse_qs(urlsplit(answer.json()["data"][0]["url"]).query)["link"][0]
    job_id = answer.headers["x-job-id"]
    for path in (f"/jobs/{job_id}", f"/jobs/{job_id}/watch", "/jobs", "/queue", "/models"):
        problem(await keyed.call(None, "GET", f"{path}?link={link}"), 401)
    file = path_of(answer.json()["data"][0]["url"])
    problem(await keyed.call(None, "POST", file), 401)


async def test_an_address_begins_with_the_public_one_if_the_operator_names_it(tmp_path: Path) -> None:
    api = Api(tmp_path, public_url="https://images.example.org")
    [image] = (await api.generate(response_format="url")).json()["data"]
    assert image["url"].startswith("https://images.example.org/v1/files/job_")


@pytest.mark.parametrize(
    ("scheme", "headers", "url"),
    [
        ("http", [(b"host", b"127.0.0.1:8000")], "http://127.0.0.1:8000"),
        ("https", [(b"host", b"images.example.org")], "https://images.example.org"),
        ("http", [(b"host", b"localhost"), (b"x-forwarded-host", b"evil.example")], "http://localhost"),
        ("http", [(b"host", b"[")], "http://["),
        ("http", [], "http://10.0.0.1:8000"),
    ],
)
def test_an_address_begins_as_that_of_the_request(scheme: str, headers: list[tuple[bytes, bytes]], url: str) -> None:
    scope = {"type": "http", "scheme": scheme, "server": ("10.0.0.1", 8000), "headers": headers}
    assert base_url(scope) == url
