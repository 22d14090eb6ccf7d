"""Darkroom's stages in this process, without Ray: what its deployments do, called in a row."""

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import torch

from benchmarks.requests import CARD, MAX_ROWS, SHAPES, Requests
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine
from models.denoiser.model import load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, new_state
from models.image_file import encode_image
from models.image_input import read_image
from models.init_image import InitPixels, encode_init, put_back, whole
from models.spec import EncodedImage, ImageSpec, StepUpdate
from models.text_encoder import load_text_encoder
from models.vae import Decoded, load_vae

CPU = torch.device("cpu")
DECODED_TOGETHER = 4


class Stages:
    """The stages of the shapes model: encode all, step, decode what is finished in fours."""

    def __init__(self) -> None:
        self._text_encoder = load_text_encoder(SHAPES, CARD.family, CPU)
        self._vae = load_vae(SHAPES, CARD.family, CPU)
        self._model = load_denoiser(SHAPES, CARD.family, CPU)
        self._sizer = BatchSizer(self._model, MAX_ROWS)
        self._key = self._model.expected_key(CARD.defaults["width"], CARD.defaults["height"], CARD.max_tokens)
        self._sizer.warm_up(self._key)
        self._told: list[tuple[DenoiseState, StepUpdate]] = []
        self._engine = DenoisingEngine(self._model, self._told.extend, sizer=self._sizer, preview=Preview(()))
        self.forward_rows: Counter[int] = Counter()
        self.engine_s = 0.0
        self.decode_s = 0.0

    @torch.inference_mode()
    def generate(self, requests: Requests) -> list[bytes]:
        """Return a PNG of each request."""
        specs = requests.specs
        originals = [_read(spec, requests.files) for spec in specs]
        indices = {state: index for index, state in enumerate(self._begun(specs, originals))}
        for state in indices:
            self._engine._batcher.add(state)
        images: dict[int, bytes] = {}
        finished: list[tuple[int, StepUpdate]] = []
        while len(self._engine._batcher):
            start = time.perf_counter()
            self._engine.step()
            self.engine_s += time.perf_counter() - start
            self.forward_rows[self._told[0][1].batch_rows] += 1
            finished += [(indices[state], update) for state, update in self._told if update.latents is not None]
            self._told.clear()
            if len(finished) >= DECODED_TOGETHER or not len(self._engine._batcher):
                start = time.perf_counter()
                decoded = self._vae.decode([update.latents for _, update in finished])
                for (index, _), image in zip(finished, decoded, strict=True):
                    images[index] = _file(image, specs[index], originals[index])
                self.decode_s += time.perf_counter() - start
                finished = []
        return [images[index] for index in range(len(specs))]

    def _begun(self, specs: Sequence[ImageSpec], originals: Sequence[InitPixels | None]) -> list[DenoiseState]:
        encoded = iter(encode_init(self._vae, [one for one in originals if one is not None], requires_mask=False))
        states = []
        for spec, text, original in zip(specs, self._text_encoder.encode(specs), originals, strict=True):
            image = None if original is None else next(encoded)
            assert image is None or isinstance(image, EncodedImage), image
            states.append(new_state(spec, text, self._model.plan(spec), self._model, image))
        return states

    def forward_s(self, rows: int, repeats: int = 9) -> float:
        """Median seconds of a bare forward of `rows` rows."""
        batch = self._model.example(self._key, rows)
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self._model.predict(batch)
            seconds.append(time.perf_counter() - start)
        return sorted(seconds)[repeats // 2]


def _read(spec: ImageSpec, files: Mapping[str, bytes]) -> InitPixels | None:
    """Return the image that a request begins with, and its mask, in the size of the one that is generated."""
    if spec.init is None:
        return None
    image = read_image(files[spec.init.input], sys.maxsize)
    mask = None if spec.init.mask is None else read_image(files[spec.init.mask], sys.maxsize)
    return whole(image, mask, spec.width, spec.height, spec.init.resize_mode)


def _file(decoded: object, spec: ImageSpec, original: InitPixels | None) -> bytes:
    assert isinstance(decoded, Decoded), decoded
    if original is not None and spec.init is not None and spec.init.paste_back:
        pixels = put_back(decoded.pixels, original, None, spec.init.mask_blur)
        decoded = decoded._replace(pixels=pixels)
    return encode_image(decoded, spec, CARD.digest)
