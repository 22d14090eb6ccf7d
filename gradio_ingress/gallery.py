"""A Job's images as HTML: a tile and a receipt for each. Pure."""

from html import escape

from deployments.jobs import ImageResult, Job
from deployments.origins import link_to
from gradio_ingress import receipt
from gradio_ingress.status import terms
from models.spec import ImageSpec, InitImage

HERE = "http://this.page"  # placeholder for the service's address, which the browser fills in


def empty() -> str:
    """Return the placeholder of a gallery without images."""
    return '<div class="tiles" data-count="1"><div class="nothing">Your picture appears here.</div></div>'


def tiles(job: Job, owner: str) -> str:
    """Return a tile for each image as `owner` may use it: empty while it waits, then its previews, then the image."""
    done = {image.index: image for image in job.images}
    previews = job.progress.previews if job.progress else {}
    shown = [_tile(job, i, done.get(i), previews.get(i), job.owner == owner) for i in range(len(job.specs))]
    return f'<div class="tiles" data-count="{len(shown)}">{"".join(shown)}</div>{_below(job)}'


def receipts(job: Job) -> str:
    """Return the receipt of each image, with code that generates it again."""
    started = job.timestamps.started
    waited_s = None if started is None else started - job.timestamps.created
    return "".join(_receipt(image, waited_s) for image in job.images)


def _tile(job: Job, index: int, image: ImageResult | None, preview: str | None, is_own: bool) -> str:
    spec = job.specs[index]
    shape = "--w:{};--h:{}".format(*spec.size)
    alt = escape(spec.prompt, quote=True)
    if image:
        url = escape(link_to(job, image), quote=True)
        natural = ' class="natural"' if spec.init and spec.init.area == "masked" else ""  # as large as the image it was
        drawn, below = f'<img src="{url}" alt="{alt}"{natural}>', _actions(job, spec, index, url, is_own)
        if spec.init and is_own:
            drawn = _compared(drawn, spec.init)
        state = "done"
    elif preview:
        drawn, below = f'<img src="{escape(preview, quote=True)}" alt="Preview of: {alt}">', ""
        state = "preview"
    else:
        drawn, below = '<div class="blank"></div>', ""
        state = "empty" if job.ended else "waiting"
    caption = f"<figcaption><span>Seed {spec.seed}</span>{below}</figcaption>"
    return f'<figure class="tile" data-state="{state}" style="{shape}">{drawn}{caption}</figure>'


def _compared(drawn: str, init: InitImage) -> str:
    """An image under the one that it began with, of which a slider shows as much as somebody wants: see `page.js`."""
    fit = "stretch" if init.area == "masked" else init.resize_mode  # then it has the other one's size
    return (
        f'<div class="compared">{drawn}'
        f'<img class="before" data-fit="{fit}" data-src="/v1/inputs/{init.input}/content" alt="" hidden></div>'
        '<input class="compare" type="range" min="0" max="100" value="0" '
        'aria-label="How much is shown of the image that it began with">'
    )


def _actions(job: Job, spec: ImageSpec, index: int, url: str, is_own: bool) -> str:
    which = f'data-job="{job.id}.{job.link}" data-index="{index}"'
    begin = f'<button type="button" data-act="input" {which}>Use as input</button>' if is_own else ""
    return (
        f'<span class="actions" role="group" aria-label="Picture {index + 1}">'
        f'<button type="button" data-act="seed" {which}>Reuse seed</button>'
        f'<button type="button" data-act="settings" {which}>Reuse settings</button>'
        f"{begin}"
        f'<a href="{url}" download="darkroom-{spec.seed}.{spec.output_format}">Download</a></span>'
    )


def _below(job: Job) -> str:
    buttons = [f'<button type="button" data-copy-link="{job.id}.{job.link}">Copy link</button>']
    if len(job.images) > 1:
        buttons.append('<button type="button" data-download-all>Download all</button>')
    return f'<p class="below">{"".join(buttons)}</p>'


def _receipt(image: ImageResult, waited_s: float | None) -> str:
    copies = "".join(
        f'<button type="button" data-copy="{escape(code, quote=True)}">Copy as {name}</button>'
        for name, code in receipt.snippets(image.spec, HERE).items()
    )
    return f'<section class="receipt">{terms(receipt.lines(image, waited_s))}<p class="below">{copies}</p></section>'
