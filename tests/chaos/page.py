"""Somebody leaves the page while their picture is made, and comes back."""

from collections import Counter
from urllib.parse import parse_qs, urlsplit

from playwright.sync_api import Browser, Page, TimeoutError

from benchmarks.chromium import INTERACTIVE, running_chromium
from tests.chaos.drill import ENDS_WITHIN_S, Outcome, a_body
from tests.cluster import Cluster

PROMPT = "a red circle on a blue background"
LINE = 8  # pictures of others: more than are drawn at once, so that the page's own has to wait
LEAVES = {"queued": (0.0, 0.8), "running": (0.0, 0.9), "at the end": (0.9, 1.1)}  # after shares of a picture's time
ELSEWHERE = 0.3  # of those who come back do so in another browser, by the address that they had
SHOWN = """(job) => {
  const picture = document.querySelector(`.tile[data-state=done] img[src^="/v1/files/${job}"]`);
  return picture?.complete && picture.naturalWidth > 0;
}"""


def reloads(cluster: Cluster, times: int) -> Outcome:
    """At any moment the page is loaded again, or its address opened elsewhere: the picture appears, with its seed."""
    met: Counter[str] = Counter()
    elsewhere, lost, wrong_seeds = 0, [], 0
    with running_chromium() as browser:
        takes_s = _takes_s(cluster)
        for number in range(times):
            cluster.rest()
            moment = list(LEAVES)[number % len(LEAVES)]
            page = _generate(browser, cluster, behind=LINE if moment == "queued" else 0)
            page.wait_for_timeout(1000 * takes_s * cluster.random.uniform(*LEAVES[moment]))
            met[str(page.locator(".status").get_attribute("data-state"))] += 1
            leaves = cluster.random.random() < ELSEWHERE
            elsewhere += leaves
            page = _opened_elsewhere(browser, page) if leaves else _reloaded(page)
            if not _is_shown(page):
                lost.append(f"{number}, {moment}: {page.locator('#status').inner_text()}")
            elif not _is_seed_shown(page, cluster):
                wrong_seeds += 1
            page.context.close()
    figures = {
        "reloads": times,
        "in another browser": elsewhere,
        "a picture, s": round(takes_s, 2),
        **{f"while {state}": count for state, count in sorted(met.items())},
        "lost": len(lost),
        "wrong seeds": wrong_seeds,
        "why": lost,
    }
    held = not lost and not wrong_seeds and met["queued"] > 0 and met["running"] > 0
    return Outcome("a page that is loaded again shows its picture", held, figures)


def _takes_s(cluster: Cluster) -> float:
    """How long such a picture takes while nothing else happens."""
    cluster.rest()
    times = cluster.drawn({"prompt": PROMPT})["timestamps"]
    return times["ended"] - times["created"]


def _generate(browser: Browser, cluster: Cluster, behind: int) -> Page:
    """Ask in a fresh profile for a picture, behind those of others; return as soon as the address names its job."""
    page = browser.new_context().new_page()
    page.goto(cluster.address)
    page.wait_for_selector(INTERACTIVE)
    page.fill("#prompt textarea", PROMPT)
    for number in range(behind):
        cluster.submit(a_body(number))
    page.click("#generate")
    page.wait_for_url(lambda url: "job=" in url)
    return page


def _reloaded(page: Page) -> Page:
    page.reload()
    return page


def _opened_elsewhere(browser: Browser, page: Page) -> Page:
    address = page.url
    page.context.close()
    page = browser.new_context().new_page()
    page.goto(address)
    return page


def _is_shown(page: Page) -> bool:
    """Whether the finished picture appears in time; a preview is none."""
    try:
        page.wait_for_function(SHOWN, arg=_job(page)[0], timeout=1000 * ENDS_WITHIN_S)
    except TimeoutError:
        return False
    return True


def _is_seed_shown(page: Page, cluster: Cluster) -> bool:
    """Whether the page names the seed that the job has, under the picture and in its status."""
    job_id, link = _job(page)
    seed = cluster.call(f"/v1/jobs/{job_id}?link={link}")[1]["images"][0]["seed"]
    caption, status = (page.locator(place).inner_text() for place in ("figcaption > span >> nth=0", ".status .detail"))
    return caption == f"Seed {seed}" and status.endswith(f"seed {seed}")


def _job(page: Page) -> tuple[str, str]:
    """The id and the link's secret of the job that the page's address names."""
    job_id, _, link = parse_qs(urlsplit(page.url).query)["job"][0].partition(".")
    return job_id, link
