"""Which files an event may name. Every event that Gradio knows is tried over HTTP, also those that are yet to come."""

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio import processing_utils
from gradio.utils import get_upload_folder

from deployments.access import AccessPolicy
from deployments.dispatcher.client import DispatcherClient, ServeCalls
from deployments.image_store import ImageStore
from deployments.resolution import resolve
from deployments.schema import GenerationRequest
from gradio_ingress import stream_keepalive, uploads
from gradio_ingress.app import create_app
from gradio_ingress.page import Page
from gradio_ingress.uploads import MAX_FILES, REFUSED, uploaded
from models.errors import InvalidRequest
from tests.unit.gradio_ingress.fakes import CARD, Cluster, picture
from tests.unit.gradio_ingress.test_page import a_request, form

PICTURE = picture(resolve(GenerationRequest(prompt="a moon", seed=9), CARD)[0])
FUNCTIONS = Page(DispatcherClient(ServeCalls.to_app(""))).blocks.fns
EVENTS = {number: f"{number} {fn.name}" for number, fn in FUNCTIONS.items() if fn.inputs}
[ON_PICTURE] = [number for number, fn in FUNCTIONS.items() if fn.name == "on_picture"]
PICTURE_IS = [component.elem_id == "picture" for component in FUNCTIONS[ON_PICTURE].inputs]
ANSWERS_WITHIN_S = 10.0
JSON = {"Content-Type": "application/json"}


def picture_and_form(file: dict[str, Any]) -> list[Any]:
    """The data of the event that reads a file's settings, with an empty form."""
    return [file if is_picture else None for is_picture in PICTURE_IS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's upload folder."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    return folder


@pytest.fixture
async def http(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    monkeypatch.setattr(stream_keepalive, "KEEPALIVE_S", 0)  # or httpx would wait for the end of streams
    app = create_app(Cluster(ImageStore(tmp_path / "images")).client, AccessPolicy())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        await client.get("/gradio_api/startup-events")
        yield client


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was hashed, copied, fetched or opened for its settings, which must be nothing."""
    touched: list[str] = []

    def touch(path: Any, *_: Any, **__: Any) -> str:
        touched.append(str(path))
        return str(path)

    async def fetch(path: Any, *_: Any, **__: Any) -> str:
        return touch(path)

    for name in ("hash_file", "save_file_to_cache", "save_url_to_cache"):
        monkeypatch.setattr(processing_utils, name, touch)
    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", fetch)
    monkeypatch.setattr(shutil, "copy2", touch)
    monkeypatch.setattr(Path, "read_bytes", lambda path: touch(path).encode())
    return touched


def file_data(path: str, **others: Any) -> dict[str, Any]:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **others}


def linked(path: Path, target: Path) -> str:
    path.symlink_to(target)
    return str(path)


def hostile(kind: str, root: Path, folder: Path) -> str:
    """A path that no event may name, and for most kinds something that is there."""
    outside = root / "images" / "another.png"
    outside.parent.mkdir(exist_ok=True)
    outside.write_bytes(PICTURE)
    match kind:
        case "another owner's picture":
            return str(outside)
        case "a file of the system":
            return "/etc/passwd"
        case "a relative path":
            return os.path.relpath(outside)
        case "a path that leads out":
            return f"{folder}/../images/another.png"
        case "a link out of the folder":
            return linked(folder / "link.png", outside)
        case "a linked folder":
            return f"{linked(folder / 'linked', outside.parent)}/another.png"
        case "links in a circle":
            return linked(folder / "circle.png", folder / "circle.png")
        case "what never ends":
            os.mkfifo(root / "fifo.png")
            return str(root / "fifo.png")
        case "what never ends, in the folder":
            os.mkfifo(folder / "fifo.png")
            return str(folder / "fifo.png")
        case "a device":
            return "/dev/zero"
        case "what is not there":
            return str(root / "images" / "nothing.png")
        case "a sibling of the folder":
            (root / "uploads-too.png").write_bytes(PICTURE)
            return str(root / "uploads-too.png")
        case "the folder":
            return str(folder)
        case "an address":
            return "https://example.com/a.png"
        case "a file's address":
            return outside.as_uri()
        case "percent-encoded":
            return str(outside).replace("/", "%2F")
        case "a null byte":
            return f"{folder}/a\0.png"
        case "a lone surrogate":
            return f"{folder}/\ud800.png"
        case "nothing":
            return ""
    raise AssertionError(kind)


KINDS = (
    "another owner's picture",
    "a file of the system",
    "a relative path",
    "a path that leads out",
    "a link out of the folder",
    "a linked folder",
    "links in a circle",
    "what never ends",
    "what never ends, in the folder",
    "a device",
    "what is not there",
    "a sibling of the folder",
    "the folder",
    "an address",
    "a file's address",
    "percent-encoded",
    "a null byte",
    "a lone surrogate",
    "nothing",
)


async def join(http: httpx.AsyncClient, event: int, data: list[Any]) -> httpx.Response:
    """Put an event into Gradio's queue as the page does."""
    body = json.dumps({"fn_index": event, "session_hash": "tab", "data": data})
    async with asyncio.timeout(ANSWERS_WITHIN_S):
        return await http.post("/gradio_api/queue/join", content=body, headers=JSON)


async def outcome(http: httpx.AsyncClient) -> dict[str, Any]:
    """How the tab's event ended."""
    async with (
        asyncio.timeout(ANSWERS_WITHIN_S),
        http.stream("GET", "/gradio_api/queue/data", params={"session_hash": "tab"}) as answer,
    ):
        async for line in answer.aiter_lines():
            message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if message.get("msg") == "process_completed":
                return message
    raise AssertionError("it never ended")


def wrapped(path: str) -> list[Any]:
    """The ways to name a file."""
    return [
        file_data(path),
        {"path": path},
        {"path": path, "meta": None},
        file_data(path, url="/gradio_api/file=a.png"),
        file_data(path, is_stream=True),
        file_data(path, mime_type="image/svg+xml", orig_name="a.svg"),
        [[file_data(path)]],
        {"value": file_data(path)},
        {"path": 1, "meta": {"_type": "gradio.FileData"}, "deeper": [file_data(path)]},
    ]


@pytest.mark.parametrize("event", EVENTS, ids=EVENTS.values())
async def test_no_event_takes_a_file_that_was_not_uploaded(
    http: httpx.AsyncClient, tmp_path: Path, folder: Path, untouched: list[str], event: int
) -> None:
    count = len(FUNCTIONS[event].inputs)
    for kind in KINDS:
        for file in wrapped(hostile(kind, tmp_path, folder)):
            answer = await join(http, event, [file] * count)
            assert (kind, answer.status_code, answer.json()) == (kind, 400, {"detail": REFUSED})
    assert untouched == []
    assert not [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


async def test_a_file_that_hides_behind_an_uploaded_one_is_found(
    http: httpx.AsyncClient, tmp_path: Path, folder: Path
) -> None:
    (folder / "mine.png").write_bytes(PICTURE)
    path = hostile("another owner's picture", tmp_path, folder)
    hidden = {"path": str(folder / "mine.png"), "deeper": {"deepest": file_data(path)}}
    assert (await join(http, next(iter(EVENTS)), [hidden])).json() == {"detail": REFUSED}
    many = [file_data(str(folder / "mine.png"))] * (MAX_FILES + 1)
    assert "at most 16 files" in (await join(http, next(iter(EVENTS)), many)).json()["detail"]


@pytest.mark.parametrize("route", ["call/generate", "call/v2/generate"])
async def test_the_programs_endpoint_takes_no_file(
    http: httpx.AsyncClient, tmp_path: Path, folder: Path, untouched: list[str], route: str
) -> None:
    for kind in KINDS:
        file = file_data(hostile(kind, tmp_path, folder))
        body = json.dumps({"prompt": file} if "v2" in route else {"data": [file]})
        async with asyncio.timeout(ANSWERS_WITHIN_S):
            answer = await http.post(f"/gradio_api/{route}", content=body, headers=JSON)
        assert (kind, answer.status_code) == (kind, 400)
    assert untouched == []


# Gradio fetches addresses, and reads whatever lies in its folder.
BY_GRADIO = [
    kind for kind in KINDS if not any(word in kind for word in ("address", "the folder", "null", "surrogate", "circle"))
]


@pytest.mark.parametrize("kind", ["a link out of the folder", *BY_GRADIO])
async def test_gradios_own_check_is_on_behind_ours(
    http: httpx.AsyncClient,
    tmp_path: Path,
    folder: Path,
    untouched: list[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr("gradio_ingress.uploads.uploaded", lambda path: Path(path))
    assert (
        await join(http, ON_PICTURE, picture_and_form(file_data(hostile(kind, tmp_path, folder))))
    ).status_code == 200
    assert (await outcome(http))["success"] is False
    assert untouched == []


@pytest.mark.parametrize("kind", KINDS)
async def test_the_page_itself_reads_nothing_that_was_not_uploaded(
    tmp_path: Path, folder: Path, untouched: list[str], kind: str
) -> None:
    page = Page(Cluster(ImageStore(tmp_path / "images")).client)
    given = form(page) | {page.parts.picture: {"path": hostile(kind, tmp_path, folder)}}
    said = await page.reuse.on_picture(given, a_request("browser:ada"))
    assert REFUSED in said[page.parts.message]
    assert untouched == []


async def upload(http: httpx.AsyncClient, content: bytes = PICTURE, name: str = "a moon.png") -> httpx.Response:
    return await http.post("/gradio_api/upload", files={"files": (name, content)})


def kept(folder: Path) -> set[bytes]:
    """What was uploaded and is still there."""
    return {path.read_bytes() for path in folder.rglob("*") if path.is_file()} - {b""}


async def test_an_uploaded_picture_is_read_and_deleted(http: httpx.AsyncClient, folder: Path) -> None:
    [path] = (await upload(http)).json()
    assert kept(folder) == {PICTURE}
    assert (await join(http, ON_PICTURE, picture_and_form(file_data(path, orig_name="a moon.png")))).status_code == 200
    ended = await outcome(http)
    assert ended["success"] is True
    assert "Settings restored from the picture." in str(ended["output"])
    assert kept(folder) == set()


async def test_what_is_no_picture_is_deleted_too(http: httpx.AsyncClient, folder: Path) -> None:
    [path] = (await upload(http, b"no picture", "no.png")).json()
    await join(http, ON_PICTURE, picture_and_form(file_data(path)))
    assert "no picture" not in str((await outcome(http))["output"])
    assert kept(folder) == set()


async def test_of_what_nobody_reads_the_oldest_goes(
    http: httpx.AsyncClient, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "MAX_UPLOAD", uploads.BLOCK)
    monkeypatch.setattr(uploads, "MAX_KEPT", 4 * uploads.BLOCK)
    for number in range(10):
        assert (await upload(http, b"%d" % number)).status_code == 200
        for age, path in enumerate(sorted(folder.rglob("*.png"), key=lambda path: -path.stat().st_mtime)):
            os.utime(path, (time.time() - age, time.time() - age))
    assert kept(folder) == {b"6", b"7", b"8", b"9"}


async def test_what_nobody_read_for_ten_minutes_goes_and_what_broke_off_with_it(
    http: httpx.AsyncClient, folder: Path
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        yield head + b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await http.post(
            "/gradio_api/upload", content=broken(), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )
    [_] = folder.iterdir()
    await upload(http, b"whole")
    assert len(list(folder.iterdir())) == 2
    for path in folder.rglob("*"):
        os.utime(path, (0, time.time() - uploads.KEPT_FOR_S - 1))
    await upload(http, b"new")
    assert kept(folder) == {b"new"}
    assert len(list(folder.iterdir())) == 1


async def test_so_many_uploads_may_come_at_a_time(http: httpx.AsyncClient, folder: Path) -> None:
    go = asyncio.Event()
    begun = 0

    async def slow(number: int) -> AsyncIterator[bytes]:
        nonlocal begun
        begun += 1
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n%d' % number
        await go.wait()
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    coming = [
        asyncio.create_task(
            http.post(
                "/gradio_api/upload",
                content=slow(number),
                headers=headers | {"Cookie": f"darkroom=owner-{number // 2}"},
            )
        )
        for number in range(uploads.MAX_COMING)
    ]
    while begun < uploads.MAX_COMING:
        await asyncio.sleep(0.01)
    for owner, status, words in (("0", 429, "2 uploads of yours"), ("new", 503, "8 uploads are coming")):
        http.cookies.set("darkroom", f"owner-{owner}")
        refused = await upload(http)
        assert (refused.status_code, refused.headers["retry-after"]) == (status, "5")
        assert words in refused.json()["error"]["message"]
    go.set()
    assert {(await one).status_code for one in coming} == {200}
    assert (await upload(http)).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="files"\r\n\r\na\r\n--x--\r\n',
        ),
        (f"multipart/form-data; boundary={'x' * 300}", b"--" + b"x" * 300 + b"--\r\n"),
        (
            "multipart/form-data; boundary=x; charset=undefined",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\na\r\n--x--\r\n',
        ),
        ("multipart/form-data", b""),
        ("text/plain", b"a"),
    ],
)
async def test_an_upload_that_is_no_form_of_files_is_a_400(
    http: httpx.AsyncClient, content_type: str, body: bytes
) -> None:
    answer = await http.post("/gradio_api/upload", content=body, headers={"Content-Type": content_type})
    assert answer.status_code == 400, answer.text


async def test_another_site_uploads_nothing(http: httpx.AsyncClient, folder: Path) -> None:
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Host": "evil.example"}):
        answer = await http.post("/gradio_api/upload", files={"files": ("a.png", PICTURE)}, headers=headers)
        assert answer.status_code == 403
    assert kept(folder) == set()


def test_uploads_have_a_folder_of_their_own(folder: Path) -> None:
    (folder / "another application's.png").write_bytes(PICTURE)
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, used = (folder / f"{uploads.OWN_FOLDER}{pid}-x" for pid in (gone.pid, os.getppid()))
    for path in (left, used):
        path.mkdir()
        (path / "a.png").write_bytes(PICTURE)
    uploads.use_own_folder()
    assert (left.exists(), used.exists()) == (False, True)
    own = Path(get_upload_folder())
    assert (own.parent, own.stat().st_mode & 0o777) == (folder, 0o700)
    uploads._sweep(0)
    assert (folder / "another application's.png").exists()


@pytest.mark.parametrize("what", ["files", "fields"])
async def test_an_upload_has_a_few_parts_at_most(http: httpx.AsyncClient, what: str) -> None:
    async def upload(count: int) -> httpx.Response:
        files = [("files", ("a.png", PICTURE))] * count
        fields = {str(number): "" for number in range(count)}
        given: dict[str, Any] = {"files": files} if what == "files" else {"files": files[:1], "data": fields}
        return await http.post("/gradio_api/upload", **given)

    assert (await upload(MAX_FILES)).status_code == 200
    answer = await upload(MAX_FILES + 1)
    assert (answer.status_code, f"Maximum number of {what} is 16" in answer.text) == (400, True)


def test_a_link_that_stays_in_the_folder_is_followed(folder: Path) -> None:
    (folder / "mine.png").write_bytes(PICTURE)
    (folder / "link.png").symlink_to(folder / "mine.png")
    assert uploaded(str(folder / "link.png")) == (folder / "mine.png").resolve()
    with pytest.raises(InvalidRequest):
        uploaded(str(folder / "nothing.png"))
