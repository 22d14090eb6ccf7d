"""The page of the really served app: what people see while others wait, cancel, and replicas die."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import opened
from tests.browser.test_page import NUMBER, Profile, generate

PROMPT = "a large green ring on a yellow background"
SLOW = 100  # steps, so that there is something to see
pytestmark = pytest.mark.full


@pytest.fixture
def visit(service, profile: Profile) -> Callable[..., Page]:
    """Opens the page as somebody new, with a number of steps chosen."""

    def opening(steps: int = SLOW, images: int = 1, query: str = "") -> Page:
        page = opened(profile(), f"{service.address}/{query}")
        page.click("#advanced button")
        page.fill(f"#num_inference_steps {NUMBER}", str(steps))
        page.fill(f"#num_images {NUMBER}", str(images))
        page.click("#advanced button")
        return page

    return opening


@pytest.fixture(autouse=True)
def idle(service) -> None:
    """Nothing waits or runs when a test begins."""
    service.wait(lambda: service.get("/v1/queue")[1]["running"] == 0)


def status(page: Page):
    return page.get_by_role("status").first


def picture(page: Page, prompt: str = PROMPT):
    return page.get_by_role("img", name=prompt, exact=True).first


class Crowd:
    """Others, who ask for more pictures than are drawn at a time. Nothing is drawn until they are sent away."""

    def __init__(self, service) -> None:
        self._service = service
        self._jobs: list[str] = []
        self._halted: list[psutil.Process] = []

    def gather(self) -> None:
        for pid in self._service.pids("shapes", "Denoiser"):
            self._halted.append(psutil.Process(pid))
            self._halted[-1].suspend()  # an end would make room in line; well within its health check's patience
        for _ in range(4):
            assert self._ask()

    def fill_the_line(self) -> None:
        """Gather, and ask for more until there is no room for one."""
        self.gather()
        for pictures in (10, 1):
            while self._ask(pictures):
                pass

    def _ask(self, pictures: int = 10) -> bool:
        slow = {"prompt": "a red circle", "num_images": pictures, "num_inference_steps": 150, "sampler": "heun"}
        status, job = self._service.post("/v1/jobs", slow)
        if status == 202:
            self._jobs.append(job["id"])
        return status == 202

    def disperse(self) -> None:
        while self._halted:
            self._halted.pop().resume()
        while self._jobs:
            self._service.post(f"/v1/jobs/{self._jobs.pop()}/cancel", {})


@pytest.fixture
def crowd(service) -> Iterator[Crowd]:
    others = Crowd(service)
    yield others
    others.disperse()


def test_a_prompt_ends_in_the_picture_it_describes(visit) -> None:
    page = visit(steps=20)
    generate(page, PROMPT)
    expect(status(page)).to_have_text("Done")
    page.wait_for_function("document.querySelector('.tile img').naturalWidth === 128")
    colours = page.evaluate(
        """() => {
          const canvas = Object.assign(document.createElement('canvas'), {width: 128, height: 128});
          const brush = canvas.getContext('2d');
          brush.drawImage(document.querySelector('.tile img'), 0, 0);
          return [[2, 2], [125, 2], [2, 125], [125, 125]].map(([x, y]) => [...brush.getImageData(x, y, 1, 1).data]);
        }"""
    )
    assert all(red > 150 and green > 130 and blue < 140 for red, green, blue, _ in colours), colours


def test_places_in_line_count_down_in_several_browsers(crowd, visit) -> None:
    pages = [visit(), visit(), visit()]
    crowd.gather()
    for page, place in zip(pages, ("1st", "2nd", "3rd"), strict=True):
        generate(page, PROMPT)
        expect(status(page)).to_contain_text(f"In line: {place}")
    pages[0].click("#cancel")
    expect(status(pages[1])).to_contain_text("In line: 1st")
    expect(status(pages[2])).to_contain_text("In line: 2nd")
    crowd.disperse()
    for page in pages[1:]:
        expect(picture(page)).to_be_visible(timeout=120_000)


def test_a_waiting_and_a_running_picture_can_be_cancelled(crowd, visit) -> None:
    page = visit()
    crowd.gather()
    generate(page, PROMPT)
    expect(status(page)).to_contain_text("In line")
    page.click("#cancel")
    expect(status(page)).to_have_text("Cancelled")
    crowd.disperse()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    page.click("#cancel")
    expect(status(page)).to_have_text("Cancelled")


@pytest.mark.parametrize("state", ["In line", "Denoising", "Done"])
def test_a_reload_loses_nothing(crowd, visit, state: str) -> None:
    page = visit(steps=8 if state == "Done" else SLOW)
    if state == "In line":
        crowd.gather()
    generate(page, PROMPT)
    expect(status(page)).to_contain_text(state)
    page.reload()
    crowd.disperse()
    expect(picture(page)).to_be_visible(timeout=60_000)


def test_a_link_shows_a_running_picture_to_somebody_else(visit) -> None:
    page = visit()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    guest = visit(query="?" + page.url.partition("?")[2])
    expect(picture(guest)).to_be_visible(timeout=60_000)
    guest.wait_for_function("document.querySelector('.tile[data-state=done] img').naturalWidth === 128")


def test_a_full_line_says_that_nothing_was_queued(crowd, visit) -> None:
    page = visit()
    crowd.fill_the_line()
    generate(page, PROMPT)
    expect(status(page)).to_contain_text("The line is full (256). Nothing was queued.")
    expect(page.locator(".tile")).to_have_count(0)


def test_a_picture_whose_replica_is_killed_restarts_and_is_drawn(service, visit) -> None:
    page = visit()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    for process in psutil.process_iter(["cmdline"]):
        if "ServeReplica:shapes:Denoiser" in " ".join(process.info["cmdline"] or ()):
            process.kill()
    expect(page.locator("#status")).to_contain_text("A worker stopped", timeout=60_000)
    expect(picture(page)).to_be_visible(timeout=120_000)


def test_two_tabs_of_one_browser_follow_the_same_job(service, visit) -> None:
    page = visit()
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    other = opened(page.context, service.address)
    expect(other.get_by_role("progressbar")).to_be_visible()
    for tab in (page, other):
        expect(picture(tab)).to_be_visible(timeout=60_000)


def test_a_picture_dropped_on_png_info_can_be_drawn_again_to_the_bit(visit, tmp_path: Path) -> None:
    def downloaded(page: Page, name: str) -> bytes:
        with page.expect_download() as download:
            page.get_by_role("link", name="Download").click()
        download.value.save_as(tmp_path / name)
        return (tmp_path / name).read_bytes()

    first = visit(steps=6)
    generate(first, PROMPT)
    drawn = downloaded(first, "first.png")
    second = visit()
    second.click("#png-info button")
    second.set_input_files("#picture input[type=file]", tmp_path / "first.png")
    expect(status(second)).to_contain_text("Settings restored from the picture.")
    expect(second.locator("#prompt textarea")).to_have_value(PROMPT)
    second.click("#generate")
    expect(status(second)).to_have_text("Done")
    assert downloaded(second, "second.png") == drawn


def test_all_pictures_of_a_job_can_be_downloaded_at_once(visit) -> None:
    page = visit(steps=4, images=3)
    generate(page, PROMPT)
    expect(status(page)).to_have_text("Done")
    found: list[str] = []
    page.on("download", lambda download: found.append(download.suggested_filename))
    page.get_by_role("button", name="Download all").click()
    page.wait_for_function("document.querySelectorAll('.tile a[download]').length === 3")
    while len(found) < 3:
        page.wait_for_event("download")
    assert len(set(found)) == 3


def test_what_the_model_does_not_allow_is_said_on_its_field(visit) -> None:
    page = visit(steps=500)
    generate(page, PROMPT)
    words = "Inference steps: input should be less than or equal to 150"
    expect(page.locator("#num_inference_steps .field-error")).to_contain_text(words)
    expect(status(page)).to_contain_text(words)


@pytest.mark.parametrize("width", [1280, 390])
def test_by_keyboard_on_any_size_without_a_serious_violation(visit, width: int) -> None:
    page = visit()
    page.set_viewport_size({"width": width, "height": 844})
    page.focus("#prompt textarea")
    page.keyboard.type(PROMPT)
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("progressbar")).to_be_visible()
    for _ in range(20):
        if page.evaluate("document.activeElement.id") == "cancel":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(status(page)).to_have_text("Cancelled")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    found = Axe().run(page).response["violations"]
    assert [each["id"] for each in found if each["impact"] in ("serious", "critical")] == []


STAR = "a small red star above a large green ring on a yellow background, watercolor"


def test_the_readmes_pictures_show_this_page(crowd, visit, pictures_to: Path) -> None:
    page = visit(steps=20, images=2)
    page.screenshot(path=pictures_to / "page-idle.png")
    generate(page, STAR)
    expect(status(page)).to_have_text("Done")
    page.locator("#receipt button").first.click()
    page.screenshot(path=pictures_to / "page-done.png")
    page.emulate_media(color_scheme="dark")
    page.reload()
    expect(status(page)).to_contain_text("Welcome back")
    page.screenshot(path=pictures_to / "page-dark.png")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 390, "height": 844})
    page.screenshot(path=pictures_to / "page-phone.png")
    page = visit(images=2)
    crowd.gather()
    generate(page, STAR)
    page.locator("#why button").first.click()
    expect(page.locator("#why dl")).to_contain_text("Your share")
    page.screenshot(path=pictures_to / "page-queued.png")
    page.locator("#why button").first.click()
    crowd.disperse()
    expect(page.get_by_role("img", name="Preview of")).to_have_count(2)
    page.screenshot(path=pictures_to / "page-running.png")
    assert len(list(pictures_to.glob("page-*.png"))) == 6
