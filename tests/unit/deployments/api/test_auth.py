"""Whose a request is, with keys and without."""

import hashlib
import http.cookies
import json
import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments import keys as keys_module
from deployments.errors import StoreUnavailable
from deployments.keys import KEYS, ApiKey, Keyring, UnusableKeys, new_key, read_keys
from ops import keys as command
from tests.unit.deployments.api.caller import Api, problem
from tests.unit.deployments.api.test_inputs import an_image

ROUTES = [
    ("GET", "/jobs"),
    ("GET", "/jobs/job_0"),
    ("GET", "/jobs/job_0/watch"),
    ("POST", "/jobs"),
    ("POST", "/jobs/job_0/cancel"),
    ("DELETE", "/jobs/job_0"),
    ("POST", "/images/generations"),
    ("POST", "/hf/models/shapes"),
    ("GET", "/hf/models/shapes/health"),
    ("GET", "/files/x.png"),
    ("GET", "/models"),
    ("GET", "/models/shapes"),
    ("POST", "/tokenize"),
    ("GET", "/queue"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
]


class Keyed:
    """An API with two keys, and their secrets."""

    def __init__(self, folder: Path, cors_origins: tuple[str, ...] = (), **caps: Any) -> None:
        self.file = folder / "keys.json"
        ada, self.ada = new_key("ada", **caps)
        bob, self.bob = new_key("bob")
        self.file.write_bytes(KEYS.dump_json([ada, bob]))
        self.api = Api(folder / "images", keys=self.file, cors_origins=cors_origins, max_waiting=50)

    async def call(self, secret: str | None, method: str, path: str, **options: Any) -> Any:
        headers = options.pop("headers", {}) | ({"Authorization": f"Bearer {secret}"} if secret else {})
        return await self.api.http.request(method, path, headers=headers, **options)


@pytest.fixture
async def keyed(tmp_path: Path) -> Keyed:
    return Keyed(tmp_path)


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_a_key_everything_is_closed(keyed: Keyed, method: str, path: str) -> None:
    answer = await keyed.call(None, method, path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    if path.startswith("/hf/"):
        assert answer.json() == {"error": "An API key is needed."}
    else:
        assert problem(answer, 401)["code"] == "invalid_api_key"


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic YTpi", "bearer  ", "Bearer é"])
async def test_what_is_no_key_opens_nothing(keyed: Keyed, given: str) -> None:
    problem(await keyed.api.http.get("/queue", headers={"Authorization": given.encode()}), 401)


async def test_a_wrong_key_is_told_from_none(keyed: Keyed) -> None:
    missing, wrong = [problem(await keyed.call(secret, "GET", "/queue"), 401) for secret in (None, "dk_wrong")]
    assert missing["message"] == "An API key is needed."
    assert wrong["message"] == "This API key is not known here. Ask the operator of the service for one."


async def test_probes_need_no_key_and_tell_no_details_then(keyed: Keyed) -> None:
    assert (await keyed.call(None, "GET", "/health")).json() == {"status": "ok"}
    assert (await keyed.call(None, "GET", "/ready")).json() == {"ready": True, "missing": []}
    assert "applications" in (await keyed.call(keyed.ada, "GET", "/ready")).json()


async def test_a_key_opens_its_own_jobs_and_files_and_no_others(keyed: Keyed) -> None:
    answer = await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a"}, headers={"Prefer": "wait=9"})
    job = answer.json()
    assert (answer.status_code, job["status"]) == (200, "succeeded")
    url = job["images"][0]["url"].removeprefix("/v1")
    for path in (f"/jobs/{job['id']}", f"/jobs/{job['id']}/watch", url):
        assert (await keyed.call(keyed.ada, "GET", path)).status_code == 200
        assert problem(await keyed.call(keyed.bob, "GET", path), 404)["code"] == "not_found"
    assert problem(await keyed.call(keyed.bob, "POST", f"/jobs/{job['id']}/cancel"), 404)
    assert [found["id"] for found in (await keyed.call(keyed.ada, "GET", "/jobs")).json()["data"]] == [job["id"]]
    assert (await keyed.call(keyed.bob, "GET", "/jobs")).json()["data"] == []


async def test_the_pages_cookie_shows_pictures_and_changes_nothing(keyed: Keyed) -> None:
    job = (await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a"}, headers={"Prefer": "wait=9"})).json()
    url = job["images"][0]["url"].removeprefix("/v1")
    cookie = {"Cookie": f'other=John Doe; prefs={{"a":1}}; bare; darkroom={keyed.ada}'}  # cookies know no ports
    assert (await keyed.api.http.get(url, headers=cookie)).status_code == 200
    assert (await keyed.api.http.post("/jobs", json={"prompt": "a"}, headers=cookie)).status_code == 401
    assert (await keyed.api.http.get(url, headers={"Cookie": "darkroom=wrong"})).status_code == 401


async def test_the_pages_cookie_uploads_images_from_the_page_itself(keyed: Keyed) -> None:
    async def status(secret: str, site: str) -> int:
        headers = {"Cookie": f"darkroom={secret}", "Sec-Fetch-Site": site, "Content-Type": "image/png"}
        return (await keyed.api.http.post("/inputs", content=an_image(), headers=headers)).status_code

    assert await status(keyed.ada, "same-origin") == 201
    assert len((await keyed.call(keyed.ada, "GET", "/inputs")).json()["data"]) == 1
    assert await status(keyed.ada, "cross-site") == 403
    assert await status("wrong", "same-origin") == 401
    cookie = {"Cookie": f"darkroom={keyed.ada}", "Sec-Fetch-Site": "same-origin"}
    [image] = (await keyed.call(keyed.ada, "GET", "/inputs")).json()["data"]
    extended = await keyed.api.http.post(f"/inputs/{image['id']}/extend", json={"left": 1}, headers=cookie)
    assert extended.status_code == 201
    assert (await keyed.api.http.delete(f"/inputs/{image['id']}", headers=cookie)).status_code == 401


@pytest.mark.parametrize("name", ["darkroom", "another"])
async def test_nobody_takes_the_quotes_off_a_cookie(
    api: Api, keyed: Keyed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    unquoted: list[str] = []
    monkeypatch.setattr(http.cookies, "_unquote", unquoted.append)  # in a time that may grow by the square
    cookie = {"Cookie": f'{name}="{chr(92) * 16_000}"'}
    assert (await api.http.get("/queue", headers=cookie)).status_code == 200
    assert (await api.http.post("/jobs", json={"prompt": "a"}, headers=cookie)).status_code == 202
    assert (await keyed.api.http.get("/queue", headers=cookie)).status_code == 401
    assert (await keyed.call(keyed.ada, "GET", "/queue", headers=cookie)).status_code == 200
    assert unquoted == []


@pytest.mark.parametrize(
    ("header", "cookie"),
    [
        ("darkroom=a-b_c", "a-b_c"),
        ("darkroomy=x; a=b; darkroom = abc ;c", "abc"),
        ("darkroom=of-a-deeper-path; darkroom=abc", "abc"),
        ("darkroom=a=b", "a=b"),
        ('darkroom="abc"', '"abc"'),
        ("darkroom", ""),
        ("", ""),
        ("Darkroom=abc", ""),
    ],
)
def test_the_pages_cookie_is_read_as_it_is_written(header: str, cookie: str) -> None:
    assert keys_module.cookie_of(header) == cookie


async def test_without_keys_a_browser_is_its_cookie_and_others_are_their_address(api: Api) -> None:
    ada, bob = ({"Cookie": f"darkroom={name * 16}"} for name in ("ada", "bob"))
    answer = await api.http.post("/jobs", json={"prompt": "a"}, headers=ada | {"Prefer": "wait=9"})
    url = answer.json()["images"][0]["url"].removeprefix("/v1")
    assert (await api.http.get(url, headers=ada)).status_code == 200
    assert (await api.http.get(url, headers=bob)).status_code == 404
    assert (await api.http.get(url)).status_code == 404
    assert "adaada" not in str(api.dispatcher._queue._jobs)  # a cookie is as good as a password


async def test_a_key_may_have_so_many_pictures_in_line_and_is_told_what_is_left(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, max_waiting=3)
    keyed.api.pipeline.hold()
    await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a", "num_images": 2})  # as many as are in flight
    answer = await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a", "num_images": 2})
    assert answer.status_code == 202
    assert (answer.headers["x-ratelimit-limit-waiting"], answer.headers["x-ratelimit-remaining-waiting"]) == ("3", "1")
    refused = await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a", "num_images": 2})
    assert "At most 3 of your pictures" in problem(refused, 429)["message"]
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-remaining-waiting"] == "1"
    other = await keyed.call(keyed.bob, "POST", "/jobs", json={"prompt": "a", "num_images": 2})
    assert other.status_code == 202
    assert "x-ratelimit-limit-waiting" not in other.headers


async def test_a_key_may_ask_for_so_much_work_a_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed = Keyed(tmp_path, max_cost_per_day=0.6)  # two guided pictures of 8 steps and 128 x 128 pixels are 0.5
    noon = 20_000 * 86400 + 43200.0
    monkeypatch.setattr(keyed.api.dispatcher._clock, "now", lambda: noon)
    answer = await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a", "num_images": 2})
    assert answer.status_code == 202
    assert answer.headers["x-ratelimit-limit-cost"] == "0.6"
    assert answer.headers["x-ratelimit-remaining-cost"] == "0.1"
    assert answer.headers["x-ratelimit-reset-cost"] == "43200"
    refused = await keyed.call(keyed.ada, "POST", "/images/generations", json={"prompt": "a"})
    error = problem(refused, 429)
    assert (error["code"], refused.headers["retry-after"]) == ("quota_exceeded", "43200")
    assert refused.headers["x-ratelimit-remaining-cost"] == "0.1"
    assert "0.6 megapixel steps a day" in error["message"]
    monkeypatch.setattr(keyed.api.dispatcher._clock, "now", lambda: noon + 43200)
    assert (await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a"})).status_code == 202


async def test_a_request_for_more_than_a_keys_whole_day_is_refused_for_good(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, max_cost_per_day=0.6)
    refused = await keyed.call(keyed.ada, "POST", "/images/generations", json={"prompt": "a", "n": 3})
    error = problem(refused, 400)
    assert (error["code"], error["param"]) == ("invalid_value", "num_inference_steps")
    assert "0.6 are allowed in a day with this key" in error["message"]
    assert "retry-after" not in refused.headers


async def test_a_job_is_accepted_though_what_is_left_of_a_day_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyed = Keyed(tmp_path, max_cost_per_day=10)

    def broken(*_: object) -> float:
        raise StoreUnavailable("The disk is gone.")

    monkeypatch.setattr(keyed.api.dispatcher._writer.store, "spent", broken)
    answer = await keyed.call(keyed.ada, "POST", "/jobs", json={"prompt": "a"})
    assert (answer.status_code, answer.headers["location"]) == (202, f"/v1/jobs/{answer.json()['id']}")
    assert "x-ratelimit-limit-cost" not in answer.headers


async def test_who_has_no_key_gets_nothing_drawn_by_another_way_either(keyed: Keyed) -> None:
    from deployments.errors import Unauthorized
    from deployments.schema import GenerationRequest

    with pytest.raises(Unauthorized):
        await keyed.api.dispatcher.submit(GenerationRequest(prompt="a"), "browser:0123")


# -- the file of keys


def run(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


def test_a_key_is_made_listed_and_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    assert run(file, "add", "laptop", "--max-waiting", 5) == 0
    secret = capsys.readouterr().out.strip()
    assert len(secret) == 46
    assert file.stat().st_mode & 0o777 == 0o600
    assert secret not in file.read_text()
    ring = Keyring(file)
    key = ring.find(secret)
    assert key is not None
    assert (key.owner, key.max_waiting) == (f"key:laptop:{key.id}", 5)
    assert run(file, "add", "laptop") == 1
    assert run(file, "add", "Not A Name") == 1
    assert run(file, "list") == 0
    assert "laptop  max_waiting=5" in capsys.readouterr().out
    assert run(file, "remove", "laptop") == 0
    assert run(file, "remove", "laptop") == 1
    assert ring.find(secret) is None  # at once, without a restart


def made(file: Path, capsys: pytest.CaptureFixture[str], *arguments: object) -> ApiKey:
    """The key whose secret a command prints."""
    assert run(file, *arguments) == 0
    key = Keyring(file).find(capsys.readouterr().out.strip())
    assert key is not None
    return key


def test_a_key_has_no_jobs_of_an_earlier_one_of_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    first = made(file, capsys, "add", "shop")
    run(file, "remove", "shop")
    second = made(file, capsys, "add", "shop")
    assert first.owner != second.owner
    assert Keyring(file).of_owner(first.owner) is None


def test_no_name_gives_the_jobs_of_a_key_with_an_id() -> None:
    key = new_key("shop")[0]
    with pytest.raises(ValidationError):
        new_key(key.owner.removeprefix("key:"))


def test_a_key_of_before_there_were_ids_keeps_its_jobs_and_its_file_its_shape(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(json.dumps([{"name": "shop", "sha256": "0" * 64, "max_waiting": 7, "max_cost_per_day": None}]))
    assert read_keys(file)[0].owner == "key:shop"
    assert made(file, capsys, "rotate", "shop").owner == "key:shop"
    [written] = json.loads(file.read_text())
    assert written.keys() == {"name", "sha256", "max_waiting"}


def test_a_key_that_is_rotated_has_a_new_secret_and_the_same_jobs_and_caps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "keys.json"
    assert run(file, "add", "shop", "--max-waiting", 5, "--max-cost-per-day", 9) == 0
    secret = capsys.readouterr().out.strip()
    ring = Keyring(file)
    before = ring.find(secret)
    other = made(file, capsys, "add", "other")
    after = made(file, capsys, "rotate", "shop")
    assert before is not None
    assert after == before.model_copy(update={"sha256": after.sha256})
    assert after.sha256 != before.sha256
    assert ring.find(secret) is None
    assert read_keys(file) == [after, other]
    assert run(file, "rotate", "nobody") == 1
    assert "There is no key nobody." in capsys.readouterr().err


def test_a_key_that_was_removed_while_the_file_could_not_be_read_is_out_of_force_once_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "keys.json"
    key, secret = new_key("ada")
    file.write_bytes(KEYS.dump_json([key]))
    ring = Keyring(file)

    def unreadable(_: Path) -> None:
        raise UnusableKeys("Permission denied.")

    with monkeypatch.context() as patch:
        patch.setattr(keys_module, "read_keys", unreadable)
        assert run(file, "remove", "ada") == 0
        assert ring.find(secret) == key
    assert ring.find(secret) is None


def test_a_file_that_is_changed_stays_readable_to_whom_it_was(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text("[]")
    file.chmod(0o640)
    os.chown(file, -1, os.getgroups()[-1] if os.getgroups() else os.getgid())
    before = file.stat()
    assert run(file, "add", "ada") == 0
    after = file.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_file_that_breaks_leaves_the_keys_known_before_in_force(tmp_path: Path) -> None:
    key, secret = new_key("ada")
    file = tmp_path / "keys.json"
    file.write_bytes(KEYS.dump_json([key]))
    ring = Keyring(file)
    file.write_text("[")
    assert ring.find(secret) == key
    file.unlink()
    assert ring.find(secret) == key


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "json"),
        ("{}", "list"),
        ('[{"name": "ada"}]', "sha256"),
        (json.dumps([{"name": "A b", "sha256": "0" * 64}]), "name"),
        (json.dumps([{"name": "ada", "sha256": "0" * 64, "max_waiting": 0}]), "max_waiting"),
        (json.dumps([{"name": "ada", "sha256": "0" * 64, "id": "7"}]), "id"),
        (json.dumps([{"name": "ada", "sha256": "0" * 64}] * 2), "two keys have one name"),
        (json.dumps([{"name": name, "sha256": "0" * 64} for name in ("ada", "bob")]), "two keys have one secret"),
        (json.dumps([{"name": "ada", "sha256": hashlib.sha256(b"").hexdigest()}]), "a key has no secret"),
        (" " * 2**21, "at most 1048576 bytes"),
    ],
)
def test_a_file_that_is_no_file_of_keys_is_refused_with_the_reason(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(UnusableKeys, match=f"(?i){words}"):
        read_keys(file)
    with pytest.raises(UnusableKeys, match=r"missing\.json: No such file"):
        read_keys(tmp_path / "missing.json")
    for endless in ("/dev/zero", tmp_path):
        with pytest.raises(UnusableKeys, match="must be a file"):
            read_keys(Path(endless))


def test_a_file_that_is_changed_in_place_with_its_old_time_is_read_again(tmp_path: Path) -> None:
    (ada, removed), (bob, kept) = new_key("ada"), new_key("bob")
    file = tmp_path / "keys.json"
    file.write_bytes(KEYS.dump_json([ada, bob]))
    before, ring = file.stat(), Keyring(file)
    with file.open("wb") as same:
        same.write(KEYS.dump_json([bob]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (ring.find(removed), ring.find(kept)) == (None, bob)
