"""The three stages in one process, without Ray: what the deployments do, called in a row."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.checkpoint.card import read_card
from models.checkpoint.location import resolve_checkpoint
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine, Outcome
from models.denoiser.model import load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, new_state
from models.init_image import InitPixels, encode_init
from models.spec import EncodedImage, ImageSpec, StepUpdate
from models.text_encoder import EncodedPrompt, load_text_encoder
from models.upscaling import FirstPass, upscale
from models.vae import Decoded, load_vae

CPU = torch.device("cpu")


class Stages:
    """A checkpoint's stages, loaded one by one as their replicas load them."""

    def __init__(
        self,
        folder: Path,
        max_rows: int = 16,
        device: torch.device = CPU,
        dtype: torch.dtype = torch.float32,
        allowed_roots: Sequence[Path] = (),
        **options: bool,
    ) -> None:
        self.card = replace(read_card(str(folder), allowed_roots=allowed_roots), id="model")
        folder = resolve_checkpoint(str(folder))
        self.text_encoder = load_text_encoder(folder, self.card.family, device, dtype)
        self.model = load_denoiser(folder, self.card.family, device, dtype)
        self.vae = load_vae(folder, self.card.family, device, dtype)
        self.published: list[tuple[DenoiseState, Outcome]] = []
        self.engine = DenoisingEngine(
            self.model,
            self.published.extend,
            sizer=BatchSizer(self.model, max_rows, **options),
            preview=Preview(()),
        )

    def outcomes(self, state: DenoiseState) -> list[Outcome]:
        """What the engine has published of one picture, in order."""
        return [outcome for whose, outcome in self.published if whose is state]

    def spec(self, prompt: str = "a red circle on a blue background", **fields: object) -> ImageSpec:
        """A spec with the card's defaults."""
        chosen = {"model": "model", "prompt": prompt, "seed": 7, **self.card.defaults, **fields}
        return self.card.spec(**chosen)

    def state(self, spec: ImageSpec, steps_off: int = 0, image: EncodedImage | None = None) -> DenoiseState:
        """The picture at its first step; `steps_off` bends the plan, for negative controls."""
        [encoded] = self.text_encoder.encode([spec])
        assert isinstance(encoded, EncodedPrompt), encoded
        plan = self.model.plan(replace(spec, num_inference_steps=spec.num_inference_steps + steps_off))
        return new_state(spec, encoded, plan, self.model, image)

    def encoded(self, pixels: np.ndarray, mask: np.ndarray | None = None) -> EncodedImage:
        """What a picture begins with: uint8 [H, W, 3], and which of it are made anew, bool [H, W]."""
        requires_mask = "init.mask" in self.card.requires
        [encoded] = encode_init(self.vae, [InitPixels(pixels, mask)], requires_mask=requires_mask)
        assert isinstance(encoded, EncodedImage), encoded
        return encoded

    @torch.inference_mode()
    def denoise(self, *states: DenoiseState) -> list[np.ndarray]:
        """Run the engine's steps on this thread until every picture has ended; return their latents."""
        for state in states:
            self.engine._batcher.add(state)
        while len(self.engine._batcher):
            self.engine.step()
        last = [self.outcomes(state)[-1] for state in states]
        assert all(isinstance(outcome, StepUpdate) for outcome in last), last
        return [outcome.latents for outcome in last]

    def latents(self, spec: ImageSpec, **options: Any) -> np.ndarray:
        """Final latents of one picture alone, float32 [C, h, w]."""
        return self.denoise(self.state(spec, **options))[0]

    def picture(self, spec: ImageSpec) -> np.ndarray:
        """One picture that begins with noise, uint8 [H, W, 3]."""
        first, *later = spec.passes
        latents = self.latents(first)
        for second in later:
            latents = self.latents(second, image=self.upscaled(spec, latents))
        return self.pixels(latents)[0]

    def upscaled(self, spec: ImageSpec, latents: np.ndarray, mask: np.ndarray | None = None) -> EncodedImage:
        """What the second pass of a picture begins with, and what of it is made anew, bool [H, W]."""
        assert spec.hires is not None
        requires_mask = "init.mask" in self.card.requires
        [larger] = upscale(self.vae, [FirstPass(latents, spec.hires, mask)], requires_mask=requires_mask)
        assert isinstance(larger, EncodedImage), larger
        return larger

    def pixels(self, *latents: np.ndarray) -> list[np.ndarray]:
        """Decoded latents, uint8 [H, W, 3] each."""
        decoded = self.vae.decode(latents)
        assert all(isinstance(image, Decoded) for image in decoded), decoded
        return [image.pixels for image in decoded]


def other(spec: ImageSpec, **fields: object) -> ImageSpec:
    """The same spec with some fields changed."""
    return replace(spec, **fields)
