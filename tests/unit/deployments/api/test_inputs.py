"""Uploaded images over HTTP."""

import asyncio
import io
import json
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from deployments import input_intake
from deployments.api.limits import FORM_BYTES
from deployments.config import InputsConfig
from deployments.input_store import id_of
from deployments.keys import new_key
from models.parameters import MASK_RULES
from tests.fakes import PATIENCE_S, until
from tests.image_files import saved
from tests.unit.deployments.api.caller import Api, problem
from tests.unit.deployments.test_job_queue import a_job


def an_image(kind: str = "png", color: str = "red", size: tuple[int, int] = (4, 3), **options: Any) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, kind, **options)
    return content.getvalue()


IMAGE = an_image()
ID = id_of(IMAGE)


async def sent_as_form(api: Api, content: bytes = IMAGE) -> httpx.Response:
    return await api.http.post("/inputs", files={"file": ("photo.png", content)})


async def sent_raw(api: Api, content: bytes = IMAGE, kind: str = "image/png") -> httpx.Response:
    return await api.http.post("/inputs", content=content, headers={"Content-Type": kind})


@pytest.mark.parametrize("send", [sent_as_form, sent_raw])
async def test_an_image_that_is_uploaded_is_an_input_at_the_address_that_is_returned(api: Api, send: Any) -> None:
    answer = await send(api)
    body = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/inputs/{ID}")
    assert body == {
        "id": ID,
        "width": 4,
        "height": 3,
        "bytes": len(IMAGE),
        "created": body["created"],
        "expires": body["created"] + 86400,
    }
    assert (await api.http.get(f"/inputs/{ID}")).json() == body
    head = await api.http.head(f"/inputs/{ID}")
    assert (head.status_code, head.content) == (200, b"")


async def test_the_same_image_again_is_the_same_input_with_a_200(api: Api) -> None:
    first, again = await sent_as_form(api), await sent_raw(api)
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.headers["location"] == first.headers["location"]
    assert again.json()["created"] == first.json()["created"]
    assert again.json()["expires"] > first.json()["expires"]


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_the_bytes_come_back_as_they_were_sent_with_their_own_type(api: Api, kind: str) -> None:
    content = an_image(kind)
    sent = await sent_raw(api, content, "application/octet-stream")
    answer = await api.http.get(f"/inputs/{sent.json()['id']}/content")
    assert (answer.content, answer.headers["content-type"]) == (content, f"image/{kind}")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "immutable" in answer.headers["cache-control"]
    again = await api.http.get(answer.request.url.path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_a_photo_that_is_to_be_turned_has_the_size_at_which_it_is_looked_at(api: Api) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # its top is at the right
    answer = await sent_raw(api, an_image("jpeg", exif=exif), "image/jpeg")
    assert (answer.json()["width"], answer.json()["height"]) == (3, 4)


async def test_an_input_is_deleted_once(api: Api) -> None:
    await sent_raw(api)
    answer = await api.http.delete(f"/inputs/{ID}")
    assert (answer.status_code, answer.content) == (204, b"")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        error = problem(await api.http.request(method, f"/inputs/{ID}{path}"), 404)
        assert (error["code"], error["param"]) == ("input_not_found", None)
    assert (await sent_raw(api)).status_code == 201


async def test_an_input_that_a_job_needs_is_not_deleted(api: Api) -> None:
    await sent_raw(api)
    owner = "peer:127.0.0.1"
    api.dispatcher._writer.store.add(job := a_job(owner), inputs={"init.input": ID})
    error = problem(await api.http.delete(f"/inputs/{ID}"), 409)
    assert error["code"] == "input_in_use"
    assert job.id in error["message"]
    assert (await api.http.get(f"/inputs/{ID}/content")).content == IMAGE


async def test_inputs_of_others_do_not_exist(api: Api) -> None:
    await sent_raw(api)
    other = api.caller("10.0.0.7")
    for method, path in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        problem(await other.request(method, f"/inputs/{ID}{path}"), 404)
    assert (await other.get("/inputs")).json()["data"] == []
    assert (await api.http.get(f"/inputs/{ID}")).status_code == 200


@pytest.mark.parametrize("name", ["x", "input_", f"{ID}0", ID.upper(), "%00", "..%2Fsecret", "x" * 3000])
async def test_an_id_that_is_none_is_a_404(api: Api, name: str) -> None:
    for path in (f"/inputs/{name}", f"/inputs/{name}/content"):
        answer = await api.http.get(path)
        assert len(problem(answer, 404)["message"]) < 300


async def test_inputs_are_listed_page_by_page(api: Api) -> None:
    ids = [(await sent_raw(api, an_image(color=color))).json()["id"] for color in ("red", "green", "blue")]
    first = (await api.http.get("/inputs?limit=2")).json()
    assert [each["id"] for each in first["data"]] == ids[:0:-1]
    assert (first["object"], first["has_more"], first["last_id"]) == ("list", True, ids[1])
    second = (await api.http.get(f"/inputs?limit=2&after={first['last_id']}")).json()
    assert ([each["id"] for each in second["data"]], second["has_more"]) == (ids[:1], False)
    refused = problem(await api.http.get("/inputs?after=input_1"), 404)
    assert (refused["code"], refused["param"]) == ("input_not_found", "after")
    assert refused["message"] == "after must be the id of an input that POST /v1/inputs returned; there is no input_1."


# -- what is refused


@pytest.mark.parametrize("send", [sent_as_form, sent_raw])
@pytest.mark.parametrize(
    "content",
    [b"", b"no image", IMAGE[:45], an_image("gif"), b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    ids=["nothing", "text", "half", "gif", "svg"],
)
async def test_what_is_no_whole_image_is_a_400_that_names_its_field_and_leaves_no_file(
    api: Api, send: Any, content: bytes, tmp_path: Path
) -> None:
    error = problem(await send(api, content), 400)
    field = "file" if send is sent_as_form else "body"
    assert (error["code"], error["param"]) == ("invalid_image", field)
    assert error["message"].startswith(f"{field}: ")
    assert list((tmp_path / "inputs").iterdir()) == []


async def test_an_image_of_too_many_pixels_is_a_400(tmp_path: Path) -> None:
    api = Api(tmp_path, inputs=InputsConfig(max_input_pixels=1000))
    assert (await sent_raw(api, an_image(size=(40, 25)))).status_code == 201
    error = problem(await sent_raw(api, an_image(size=(40, 26))), 400)
    assert "40x26" in error["message"]
    assert "1,000" in error["message"]


async def in_chunks(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 2**16):
        yield content[start : start + 2**16]


async def test_an_image_of_too_many_bytes_is_a_413_however_it_comes(tmp_path: Path) -> None:
    most = 200_000
    api = Api(tmp_path, inputs=InputsConfig(max_input_bytes=most))
    padded = IMAGE + b"x" * (most + 1 - len(IMAGE))
    for content in (padded, in_chunks(padded)):
        error = problem(await sent_raw(api, content), 413)  # type: ignore[arg-type]
        assert error["code"] == "body_too_large"
        assert str(most) in error["message"]
    assert problem(await sent_as_form(api, padded), 413)["param"] == "file"
    assert problem(await sent_as_form(api, padded + b"x" * FORM_BYTES), 413)["code"] == "body_too_large"
    assert problem(await api.http.post("/jobs", content=b" " * (2**20 + 1)), 413)["code"] == "body_too_large"


async def test_an_image_that_is_too_large_is_not_read_on(tmp_path: Path) -> None:
    api = Api(tmp_path, inputs=InputsConfig(max_input_bytes=200_000))
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2**30:
            sent += 2**16
            yield b"x" * 2**16

    problem(await sent_raw(api, endless()), 413)  # type: ignore[arg-type]
    assert sent <= 2**18


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("application/json", json.dumps({"file": "https://example.org/a.png"}).encode()),
        ("application/x-www-form-urlencoded", b"file=https://example.org/a.png"),
        ("text/plain", b"https://example.org/a.png"),
        ("", b""),
    ],
)
async def test_an_address_in_place_of_an_image_is_refused_with_the_reason(api: Api, kind: str, content: bytes) -> None:
    error = problem(await sent_raw(api, content, kind), 400)
    assert (error["code"], error["param"]) == ("invalid_value", "Content-Type")
    assert "multipart/form-data with a field file, or image/png" in error["message"]
    assert "Addresses are not fetched" in error["message"]


@pytest.mark.parametrize(
    ("parts", "param", "words"),
    [
        ({"data": {"file": "https://example.org/a.png"}}, "file", "Addresses are not fetched"),
        ({"data": {"url": "https://example.org/a.png"}}, "url", "is not a known field. Send the image as file."),
        ({"files": {"image": ("a.png", IMAGE)}}, "image", "is not a known field. Send the image as file."),
        ({"files": {"file": ("a.png", IMAGE)}, "data": {"purpose": "x"}}, "purpose", "is not a known field"),
        ({"files": {"file": ("a.png", IMAGE)}, "data": {"file": "x"}}, "file", "must be one file"),
        ({"files": [("file", ("a.png", IMAGE)), ("file", ("b.png", IMAGE))]}, None, "with one part, file"),
    ],
)
async def test_a_form_without_exactly_one_file_is_refused_in_words(
    api: Api, parts: dict[str, Any], param: str | None, words: str
) -> None:
    if "files" not in parts:
        parts = {"files": {name: (None, value) for name, value in parts["data"].items()}}  # as a form, not url-encoded
    error = problem(await api.http.post("/inputs", **parts), 400)
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("boundary", "content"),
    [
        ("", b""),
        ("; boundary=x", b"no form"),
        ("; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n"),
        ("; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nhalf'),
        ("; boundary=x; charset=none", b"--x--\r\n"),
    ],
)
async def test_a_form_that_cannot_be_read_is_a_400(api: Api, boundary: str, content: bytes) -> None:
    error = problem(await sent_raw(api, content, f"multipart/form-data{boundary}"), 400)
    assert error["code"] in ("invalid_value", "invalid_image")


async def test_the_quota_is_checked_before_the_image_is_read(tmp_path: Path) -> None:
    api = Api(tmp_path, inputs=InputsConfig(max_owner_bytes=65536))
    assert (await sent_raw(api)).status_code == 201
    answer = await sent_raw(api, an_image(color="blue"))
    error = problem(answer, 429)
    assert error["code"] == "input_quota_exceeded"
    assert 86000 < int(answer.headers["retry-after"]) <= 86400
    read = False

    async def unread() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield IMAGE

    problem(await sent_raw(api, unread()), 429)  # type: ignore[arg-type]
    assert not read
    await api.http.delete(f"/inputs/{ID}")
    assert (await sent_raw(api, an_image(color="blue"))).status_code == 201


async def test_with_keys_on_nobody_uploads_without_one(tmp_path: Path) -> None:
    key, secret = new_key("ada")
    (tmp_path / "keys.json").write_text(f"[{key.model_dump_json()}]")
    api = Api(tmp_path, keys=tmp_path / "keys.json")
    problem(await sent_raw(api), 401)
    api.http.headers["Authorization"] = f"Bearer {secret}"
    assert (await sent_raw(api)).status_code == 201


# -- many at a time


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let no image be decoded before what is returned is set."""
    may_read, read = threading.Event(), input_intake.read_image

    def wait(content: bytes, max_pixels: int) -> Image.Image:
        may_read.wait(PATIENCE_S)
        return read(content, max_pixels)

    monkeypatch.setattr(input_intake, "read_image", wait)
    return may_read


async def test_while_images_are_decoded_other_requests_are_answered_and_few_images_wait(
    api: Api, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.intake, "_reading", input_intake._Share("images", 2, 3))
    other, third = api.caller("10.0.0.7"), api.caller("10.0.0.8")
    waiting = [asyncio.create_task(sent_raw(api, an_image(color=color))) for color in ("red", "green")]
    await until(lambda: api.intake._reading._taken.total() == 2)
    answer = await sent_raw(api)
    assert problem(answer, 429)["code"] == "too_many_requests"
    assert answer.headers["retry-after"] == "5"
    waiting.append(asyncio.create_task(other.post("/inputs", files={"file": ("a", IMAGE)})))
    await until(lambda: api.intake._reading._taken.total() == 3)
    answer = await third.post("/inputs", files={"file": ("a", IMAGE)})
    assert problem(answer, 503)["code"] == "unavailable"
    assert answer.headers["retry-after"] == "5"
    assert (await api.http.get("/health")).status_code == 200
    slow.set()
    assert [(await each).status_code for each in waiting] == [201, 201, 201]
    assert api.intake._reading._taken == {}


async def test_the_bytes_that_arrive_at_a_time_are_bounded_and_given_back(
    api: Api, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 3 * len(IMAGE)
    monkeypatch.setattr(api.intake, "_coming", input_intake._Share("bytes of uploads", len(IMAGE), most))
    waiting = asyncio.create_task(sent_raw(api))
    await until(lambda: api.intake._reading._taken.total() == 1)
    assert problem(await sent_raw(api), 429)["code"] == "too_many_requests"
    slow.set()
    assert (await waiting).status_code == 201
    assert (await sent_raw(api)).status_code == 200


async def test_an_input_that_is_deleted_while_it_is_stored_is_stored_again(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, times = api.intake.files.put, []

    def overtaken(name: str, content: bytes) -> int:
        times.append(name)
        size = put(name, content)
        if len(times) == 1:
            api.intake.files.remove([name])
        return size

    monkeypatch.setattr(api.intake.files, "put", overtaken)
    assert (await sent_raw(api)).status_code == 201
    assert len(times) == 2
    assert (await api.http.get(f"/inputs/{ID}/content")).content == IMAGE


async def test_a_lack_of_memory_is_a_503(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_little(*_: Any) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(input_intake, "read_image", too_little)
    assert problem(await sent_raw(api), 503)["code"] == "unavailable"


async def pixels(api: Api, input_id: str) -> Image.Image:
    return Image.open(io.BytesIO((await api.http.get(f"/inputs/{input_id}/content")).content))


async def test_room_on_the_sides_of_an_image_is_a_mask_of_its_own(api: Api) -> None:
    await sent_raw(api)
    answer = await api.http.post(f"/inputs/{ID}/extend", json={"right": 0.5, "up": 1})
    image, mask = answer.json()["input"], answer.json()["mask"]
    assert (answer.status_code, image["width"], image["height"]) == (201, 6, 6)
    assert (await pixels(api, image["id"])).getpixel((5, 0)) == (255, 0, 0)
    changes = await pixels(api, mask["id"])
    assert [changes.getpixel(at) for at in ((0, 3), (3, 5), (4, 5), (0, 2))] == [0, 0, 255, 255]

    again = (await api.http.post(f"/inputs/{image['id']}/extend", json={"left": 0.5, "mask": mask["id"]})).json()
    changes = await pixels(api, again["mask"]["id"])
    assert changes.size == (9, 6)
    assert [changes.getpixel(at) for at in ((0, 5), (3, 5), (8, 5), (3, 0))] == [255, 0, 255, 255]


async def test_room_that_cannot_be_made_is_refused(api: Api) -> None:
    await sent_raw(api)

    async def refused(status: int, input_id: str = ID, **body: Any) -> dict[str, Any]:
        return problem(await api.http.post(f"/inputs/{input_id}/extend", json=body), status)

    assert "must be greater than 0" in (await refused(400))["message"]
    assert (await refused(400, left=2))["param"] == "left"
    assert (await refused(400, sideways=1))["param"] == "sideways"
    nothing = await refused(400, left=1, right=0.001)
    assert (nothing["param"], nothing["message"][:10]) == ("right", "right must")
    assert (await refused(404, left=1, mask="input_0"))["param"] == "mask"
    transparent = (await sent_raw(api, saved(Image.new("RGBA", (3, 3)), "PNG"))).json()["id"]
    assert (await refused(400, left=1, mask=transparent))["message"] == f"mask {MASK_RULES['transparent']}."
    await refused(404, id_of(b"another"), left=1)


@pytest.mark.parametrize("was_there", [False, True])
async def test_an_extension_without_room_for_its_mask_leaves_nothing(tmp_path: Path, was_there: bool) -> None:
    api = Api(tmp_path, inputs=InputsConfig(max_owner_bytes=(3 if was_there else 2) * 65536))
    if was_there:
        await sent_raw(api)
        both = (await api.http.post(f"/inputs/{ID}/extend", json={"left": 1})).json()
        await api.http.delete(f"/inputs/{both['mask']['id']}")
        await sent_raw(api, an_image(color="blue"))
    else:
        await sent_raw(api)
    before = (await api.http.get("/inputs")).json()["data"]
    problem(await api.http.post(f"/inputs/{ID}/extend", json={"left": 1}), 429)
    assert {each["id"] for each in (await api.http.get("/inputs")).json()["data"]} == {each["id"] for each in before}


async def test_what_is_extended_may_have_no_more_pixels_than_an_upload(tmp_path: Path) -> None:
    api = Api(tmp_path, inputs=InputsConfig(max_input_pixels=20))
    await sent_raw(api)
    found = problem(await api.http.post(f"/inputs/{ID}/extend", json={"left": 1}), 400)
    assert (found["code"], "the limit is 20" in found["message"]) == ("invalid_image", True)


async def test_what_is_extended_is_a_jpeg_where_a_png_would_be_larger_than_an_upload_may_be(tmp_path: Path) -> None:
    noise = Image.frombytes("L", (64, 64), random.Random(0).randbytes(64 * 64))
    photo = io.BytesIO()
    noise.save(photo, "JPEG", quality=50)
    for most, kind in ((8_000, "PNG"), (6_000, "JPEG")):
        api = Api(tmp_path, inputs=InputsConfig(max_input_bytes=most))
        await sent_raw(api, photo.getvalue(), "image/jpeg")
        answer = await api.http.post(f"/inputs/{id_of(photo.getvalue())}/extend", json={"left": 0.25})
        assert answer.status_code == 201, answer.text
        assert (await pixels(api, answer.json()["input"]["id"])).format == kind
