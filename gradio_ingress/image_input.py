"""The control of a value that names an image. The browser sends an image to `POST /v1/inputs` and keeps only its id."""

from html import escape
from typing import Any

import gradio as gr

TEMPLATE = """
<p class="image-label"></p>
<p class="image-info">{info}</p>
<div class="drop">
  <label>
    <input class="unseen" type="file" accept="image/png,image/jpeg,image/webp">
    <img hidden>
    <span class="hint">Drop or paste an image here, or choose one.</span>
  </label>
  {paint}
  <button type="button" class="remove" hidden>Remove</button>
</div>
<p class="image-state" role="status"></p>
"""


DIRECTIONS = {"left": "Left", "right": "Right", "up": "Up", "down": "Down", "": "All sides"}


def create(info: str, painted_over: str = "", extended_with: str = "", **looks: Any) -> gr.HTML:
    """Return a control that takes an image which is chosen, dropped or pasted. See `image_input.js`.

    Its value is the id of an input, the name of a finished image, or None. A mask can also be painted over the image of
    another control, whose element has the id `painted_over`. An image can be extended, together with the mask of the
    control `extended_with`: then the event `select` has both. The front end would evaluate values in its template as
    JavaScript, so it has none.
    """
    paint = f'<button type="button" class="paint" data-over="{painted_over}">Paint</button>' if painted_over else ""
    template = TEMPLATE.format(info=escape(info), paint=paint) + (_directions(extended_with) if extended_with else "")
    taken = "images.take(element, props, watch, trigger);"
    return gr.HTML(html_template=template, js_on_load=taken, elem_classes="image-input", padding=False, **looks)


def _directions(mask: str) -> str:
    buttons = "".join(
        f'<button type="button" data-extend="{direction}">{words}</button>' for direction, words in DIRECTIONS.items()
    )
    return (
        f'<p class="extend" role="group" aria-label="Extend the image" data-mask="{mask}" hidden>'
        f"<span>Extend:</span>{buttons}</p>"
    )
