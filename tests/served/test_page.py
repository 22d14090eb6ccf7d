"""The page of the really served app: what people see while others wait, and replicas hang.

What the page alone decides is tested in `tests/browser`, over a fake cluster.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from tests.chromium import NUMBER, Profile, chromium, generate, opened, profile  # noqa: F401
from tests.cluster import Cluster
from tests.served.conftest import served

PROMPT = "a large green ring on a yellow background"
SLOW = 100  # steps, so that there is something to see
DRAWN_WITHIN_MS = 120_000


@pytest.fixture
def visit(service: Cluster, profile: Profile) -> Callable[..., Page]:  # noqa: F811
    """Opens the page as somebody new, with a number of steps chosen."""

    def opening(steps: int = SLOW, images: int = 1) -> Page:
        page = opened(profile(), service.address)
        page.click("#advanced button")
        page.fill(f"#num_inference_steps {NUMBER}", str(steps))
        page.fill(f"#num_images {NUMBER}", str(images))
        page.click("#advanced button")
        return page

    return opening


@pytest.fixture(autouse=True)
def idle(service: Cluster) -> None:
    """Nothing waits or runs when a test begins."""
    service.rest()


def status(page: Page):
    return page.get_by_role("status").first


def picture(page: Page, prompt: str = PROMPT):
    return page.get_by_role("img", name=prompt, exact=True).first


class Crowd:
    """Others, who ask for more pictures than are drawn at a time. Nothing is drawn until they are sent away."""

    def __init__(self, service: Cluster) -> None:
        self._service = service
        self._jobs: list[str] = []
        self._halted: list[psutil.Process] = []

    def gather(self) -> None:
        for denoiser in self._service.replicas("Denoiser"):
            self._halted.append(denoiser)
            denoiser.suspend()  # an end would make room in line; well within its health check's patience
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
def crowd(service: Cluster) -> Iterator[Crowd]:
    others = Crowd(service)
    yield others
    others.disperse()


def test_a_prompt_ends_in_the_picture_it_describes(visit: Callable[..., Page]) -> None:
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


def test_places_in_line_count_down_in_several_browsers_when_one_cancels(
    crowd: Crowd, visit: Callable[..., Page]
) -> None:
    pages = [visit(), visit(), visit()]
    crowd.gather()
    for page, place in zip(pages, ("1st", "2nd", "3rd"), strict=True):
        generate(page, PROMPT)
        expect(status(page)).to_contain_text(f"In line: {place}")
    pages[0].click("#cancel")
    expect(status(pages[0])).to_have_text("Cancelled")
    expect(status(pages[1])).to_contain_text("In line: 1st")
    expect(status(pages[2])).to_contain_text("In line: 2nd")
    crowd.disperse()
    for page in pages[1:]:
        expect(picture(page)).to_be_visible(timeout=DRAWN_WITHIN_MS)


def test_a_full_line_says_that_nothing_was_queued(crowd: Crowd, visit: Callable[..., Page]) -> None:
    page = visit()
    crowd.fill_the_line()
    generate(page, PROMPT)
    expect(status(page)).to_contain_text("The queue is full (256). Nothing was queued.")
    expect(page.locator(".tile")).to_have_count(0)


def test_a_picture_whose_replica_hangs_says_so_begins_again_and_is_drawn(
    service: Cluster, visit: Callable[..., Page]
) -> None:
    service.deploy(served(Denoiser={"health_check_period_s": 1, "health_check_timeout_s": 2}))
    page = visit(steps=150)
    generate(page, PROMPT)
    expect(page.get_by_role("progressbar")).to_be_visible()
    [denoiser] = service.replicas("Denoiser")
    denoiser.suspend()
    expect(page.locator("#status")).to_contain_text("A worker stopped", timeout=DRAWN_WITHIN_MS)
    service.wait(lambda: not denoiser.is_running())
    service.deploy(served())  # with the patience of before: it would end a replica that a crowd halts
    expect(picture(page)).to_be_visible(timeout=DRAWN_WITHIN_MS)


STAR = "a small red star above a large green ring on a yellow background, watercolor"


def test_the_readmes_pictures_show_this_page(crowd: Crowd, visit: Callable[..., Page], pictures_to: Path) -> None:
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


@pytest.fixture
def pictures_to(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where pictures of the page are put: into the documentation if that is asked for."""
    return Path(request.config.getoption("--pictures-to") or tmp_path)
