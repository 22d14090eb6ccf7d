"""Style presets: the words that a style adds to a prompt. They stay visible: a spec holds the whole prompt."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Style:
    """Added words; `{prompt}` stands for the user's own."""

    label: str
    prompt: str
    negative_prompt: str = ""


StyleName = Literal[
    "flat",
    "cartoon",
    "pixel-art",
    "watercolor",
    "neon",
    "line-drawing",
    "mosaic",
    "photograph",
    "cinematic",
    "anime",
    "oil-painting",
    "3d-model",
    "comic-book",
    "fantasy-art",
    "isometric",
    "low-poly",
    "origami",
    "pencil-sketch",
    "pop-art",
    "cyberpunk",
]

STYLES: dict[StyleName, Style] = {
    "flat": Style("Flat", "{prompt}, flat design"),
    "cartoon": Style("Cartoon", "{prompt}, cartoon"),
    "pixel-art": Style("Pixel art", "{prompt}, pixel art"),
    "watercolor": Style("Watercolor", "{prompt}, watercolor"),
    "neon": Style("Neon", "{prompt}, neon lights"),
    "line-drawing": Style("Line drawing", "{prompt}, a line drawing"),
    "mosaic": Style("Mosaic", "{prompt}, a mosaic of tiles"),
    "photograph": Style("Photograph", "photograph of {prompt}, 35mm, natural light, sharp focus", "drawing, painting"),
    "cinematic": Style("Cinematic", "cinematic still of {prompt}, shallow depth of field, film grain", "cartoon, text"),
    "anime": Style("Anime", "anime artwork of {prompt}, clean lines, vibrant", "photograph, realism"),
    "oil-painting": Style("Oil painting", "oil painting of {prompt}, visible brush strokes, canvas", "photograph"),
    "3d-model": Style("3D model", "3d render of {prompt}, studio lighting, highly detailed", "sketch, low poly"),
    "comic-book": Style("Comic book", "comic book panel of {prompt}, bold ink outlines, halftone", "photograph"),
    "fantasy-art": Style("Fantasy art", "fantasy painting of {prompt}, epic scale, glowing light, intricate"),
    "isometric": Style("Isometric", "isometric view of {prompt}, tiny diorama, soft shadows, plain backdrop"),
    "low-poly": Style("Low poly", "low poly model of {prompt}, flat facets, simple shading, soft colors", "photograph"),
    "origami": Style("Origami", "origami of {prompt}, folded paper, crisp creases, plain backdrop", "drawing"),
    "pencil-sketch": Style("Pencil sketch", "pencil sketch of {prompt}, graphite, hatching, white paper", "color"),
    "pop-art": Style("Pop art", "pop art print of {prompt}, bright flat colors, bold contours, dots", "photograph"),
    "cyberpunk": Style("Cyberpunk", "{prompt}, cyberpunk, neon signs, rain, wet streets at night", "daylight"),
}


def apply(style: StyleName, prompt: str, negative_prompt: str) -> tuple[str, str]:
    """Return prompt and negative prompt with the words of `style` added."""
    chosen = STYLES[style]
    negatives = [words for words in (negative_prompt, chosen.negative_prompt) if words]
    return chosen.prompt.replace("{prompt}", prompt), ", ".join(negatives)
