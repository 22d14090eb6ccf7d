"""LoRAs: the image is that of the diffusers pipeline with the same files, and no row feels another's.

The reference is the untouched pipeline with `load_lora_weights` and `set_adapters`, which PEFT computes unfused.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file, save_file

from models.adapters.lora_header import read_lora_header
from models.adapters.resident_loras import ResidentLoras
from models.denoiser.state import DenoiseState
from models.errors import AdapterChanged, UnusableAdapter
from models.spec import ImageSpec, Lora
from tests.adapters import ALL, ATTENTION, sum_of, write_lora
from tests.stages import Stages

pytestmark = pytest.mark.usefixtures("own_cache")
LATENTS_WITHIN = 1e-4
MAX_RANK = 8
Chosen = tuple[tuple[str, float], ...]  # names and weights
SEVERAL: Chosen = (("attention", 0.5), ("all", -0.8), ("old", 1.2), ("peft", 0.3))
SELECTIONS: tuple[Chosen, ...] = ((("attention", 1.0),), (("all", -0.7),), (("peft", 0.9), ("old", 1.0)), SEVERAL)
OF_EVERY_DAY = [("tiny_sd", SEVERAL), ("tiny_sd2", SELECTIONS[1]), ("tiny_sdxl", SEVERAL), ("tiny_sdxl", ())]
ALL_CELLS = [(name, chosen) for name in ("tiny_sd", "tiny_sd2", "tiny_sdxl") for chosen in ((), *SELECTIONS)]


def write_loras(folder: Path, pipeline: Any) -> None:
    """LoRAs of every layout, of attention alone and of all that can be changed, for UNet and text encoders."""
    names = ("unet", "text_encoder", "text_encoder_2")
    components = {name: getattr(pipeline, name) for name in names if hasattr(pipeline, name)}
    folder.mkdir()
    write_lora(folder / "attention.safetensors", components, "kohya", rank=4, targets=ATTENTION, seed=1)
    write_lora(folder / "all.safetensors", components, "kohya", rank=3, alpha=1.0, targets=ALL, seed=2)
    write_lora(folder / "old.safetensors", components, "diffusers", rank=2, targets=ATTENTION, seed=3)
    write_lora(folder / "peft.safetensors", components, "peft", rank=6, alpha=3, targets=ALL, seed=4)


class Pair:
    """A checkpoint with LoRAs in our stages and in its diffusers pipeline."""

    def __init__(self, checkpoint: Path, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.pipeline: Any = DiffusionPipeline.from_pretrained(checkpoint)
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.scheduler = DDIMScheduler.from_config(self.pipeline.scheduler.config, clip_sample=False)
        write_loras(folder, self.pipeline)
        self.stages = Stages(checkpoint, 8, **options)
        row_ranks = 4 * MAX_RANK if options else None
        bank = self.stages.model.enable_loras(5 * MAX_RANK, row_ranks)
        self.stages.text_encoder.enable_loras(folder, MAX_RANK, 5 * MAX_RANK)
        self.loras = ResidentLoras(folder, {"unet": bank}, self.stages.model.read_lora, MAX_RANK)
        self.alone: Callable[[ImageSpec], np.ndarray] = cache(lambda spec: self.ours([spec])[0])

    def lora(self, name: str, weight: float = 1.0) -> Lora:
        return Lora(name=name, weight=weight, sha256=sum_of(self.folder / f"{name}.safetensors"))

    def spec(self, chosen: Chosen, **fields: Any) -> ImageSpec:
        fields = {"sampler": "ddim", "num_inference_steps": 3, "guidance_scale": 5.0} | fields
        return replace(self.stages.spec(**fields), loras=tuple(self.lora(*each) for each in chosen))

    def ours(self, specs: Sequence[ImageSpec], steps_off: int = 0) -> list[np.ndarray]:
        """Final latents of images that run together."""
        for spec in specs:
            self.loras.hold(spec.loras)
        states = [self._state(spec, steps_off) for spec in specs]
        latents = self.stages.denoise(*states)
        for spec in specs:
            self.loras.release(spec.loras)
        return latents

    def _state(self, spec: ImageSpec, steps_off: int) -> DenoiseState:
        state = self.stages.state(spec, steps_off)
        state.loras = self.loras.hold(spec.loras)["unet"]
        self.loras.release(spec.loras)
        return state

    def theirs(self, spec: ImageSpec) -> np.ndarray:
        """Final latents of the untouched pipeline."""
        for lora in spec.loras:
            if lora.name not in getattr(self.pipeline.unet, "peft_config", {}):
                self.pipeline.load_lora_weights(str(self.folder / f"{lora.name}.safetensors"), adapter_name=lora.name)
        if spec.loras:
            self.pipeline.enable_lora()
            self.pipeline.set_adapters([lora.name for lora in spec.loras], [lora.weight for lora in spec.loras])
        elif hasattr(self.pipeline.unet, "peft_config"):
            self.pipeline.disable_lora()
        return (
            self.pipeline(
                spec.prompt,
                num_inference_steps=spec.num_inference_steps,
                guidance_scale=spec.guidance_scale,
                generator=torch.Generator("cpu").manual_seed(spec.seed),
                output_type="latent",
            )
            .images[0]
            .numpy()
        )


@pytest.fixture(scope="module")
def pairs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pair]:
    """Pairs of checkpoints, each made once."""
    return cache(
        lambda name, **options: Pair(request.getfixturevalue(name), tmp_path_factory.mktemp("loras") / name, **options)
    )


@pytest.fixture
def pair(pairs: Callable[..., Pair]) -> Pair:
    return pairs("tiny_sd")


def distance(latents: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(latents - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        *OF_EVERY_DAY,
        *(pytest.param(*cell, marks=pytest.mark.nightly) for cell in ALL_CELLS if cell not in OF_EVERY_DAY),
    ],
)
def test_loras_give_the_latents_of_the_diffusers_pipeline(pairs, name, chosen):
    pair = pairs(name)
    spec = pair.spec(chosen)
    theirs = pair.theirs(spec)
    assert distance(pair.ours([spec])[0], theirs) < LATENTS_WITHIN
    assert distance(pair.ours([spec], steps_off=1)[0], theirs) > LATENTS_WITHIN
    if chosen:
        assert distance(pair.ours([replace(spec, loras=())])[0], theirs) > 0.01


MIX: tuple[Chosen, ...] = ((), (("attention", 1.0),), (("all", -0.5),), SEVERAL, (("peft", 0.4),), ())


def test_rows_with_other_loras_or_none_do_not_feel_each_other(pair):
    specs = [pair.spec(chosen, seed=k, guidance_scale=(1.0, 5.0)[k % 2]) for k, chosen in enumerate(MIX)]
    for together, spec in zip(pair.ours(specs), specs, strict=True):
        assert distance(together, pair.alone(spec)) < LATENTS_WITHIN


def test_with_batch_invariant_rows_with_loras_are_bit_equal_in_any_company(pairs):
    pair = pairs("tiny_sd", batch_invariant=True)
    specs = [pair.spec(chosen, seed=k, guidance_scale=(1.0, 5.0)[k % 2]) for k, chosen in enumerate(MIX)]
    for together, spec in zip(pair.ours(specs), specs, strict=True):
        assert np.array_equal(together, pair.alone(spec))


def test_a_lora_that_nobody_holds_makes_room_and_one_that_is_held_stays(pair):
    for name in ("more", "again"):
        write_lora(
            pair.folder / f"{name}.safetensors", {"unet": pair.stages.model._model}, rank=MAX_RANK, seed=len(name)
        )
    bank, read = pair.stages.model.enable_loras(2 * MAX_RANK), list[str]()

    def noted(path: Path) -> Any:
        read.append(path.stem)
        return pair.stages.model.read_lora(path)

    loras = ResidentLoras(pair.folder, {"unet": bank}, noted, MAX_RANK)
    more, again, peft = pair.lora("more"), pair.lora("again"), pair.lora("peft")
    loras.hold([more])
    loras.hold([again])
    loras.release([again])
    assert loras.has_room([peft])
    assert not loras.has_room([peft, again])
    loras.hold([peft])
    loras.hold([more, peft])
    assert read == ["more", "again", "peft"]
    assert not loras.has_room([again])


def test_of_what_an_image_names_none_makes_room_for_another(pair):
    bank, read = pair.stages.model.enable_loras(12), list[str]()

    def noted(path: Path) -> Any:
        read.append(path.stem)
        return pair.stages.model.read_lora(path)

    loras = ResidentLoras(pair.folder, {"unet": bank}, noted, MAX_RANK)
    for name in ("old", "attention"):  # of rank 2 and 4, and in this order the first to go
        loras.hold([pair.lora(name)])
        loras.release([pair.lora(name)])
    loras.hold([pair.lora("peft")])  # of rank 6: no room is left
    loras.release([pair.lora("peft")])
    loras.hold([pair.lora("all"), pair.lora("old")])  # of rank 3
    assert read == ["old", "attention", "peft", "all"]


def test_an_alpha_that_is_no_number_is_refused_and_leaves_nothing_held(pair):
    tensors = load_file(pair.folder / "attention.safetensors")
    alpha = next(name for name in tensors if name.endswith(".alpha"))
    save_file(tensors | {alpha: torch.ones(2)}, pair.folder / "alphas.safetensors")
    with pytest.raises(UnusableAdapter, match="must be one number"):
        pair.loras.hold([pair.lora("alphas")])
    assert not pair.loras._held


def test_a_file_that_changed_or_went_since_the_job_was_accepted_fails_it(pair, tmp_path):
    lora = replace(pair.lora("attention"), sha256="0" * 64)
    with pytest.raises(AdapterChanged, match="attention has changed"):
        pair.loras.hold([lora])
    with pytest.raises(AdapterChanged, match="gone"):
        pair.loras.hold([Lora(name="gone", weight=1.0, sha256="0" * 64)])
    os.mkfifo(pair.folder / "pipe.safetensors")
    with pytest.raises(AdapterChanged, match="pipe is gone"):
        pair.loras.hold([Lora(name="pipe", weight=1.0, sha256="0" * 64)])


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("lora_unet_mid_block_resnets_0_conv1.hada_w1_a", "LoHa"),
        ("lora_unet_mid_block_resnets_0_conv1.lokr_w1", "LoKr"),
        ("lora_unet_mid_block_resnets_0_conv1.dora_scale", "DoRA"),
        ("lora_unet_mid_block_resnets_0_conv1.lora_mid.weight", "Tucker"),
        ("model.diffusion_model.input_blocks.0.0.weight", "no part of one"),
    ],
)
def test_files_of_other_kinds_are_refused_with_the_reason(pair, tmp_path, key, reason):
    tensors = load_file(pair.folder / "attention.safetensors")
    save_file(tensors | {key: torch.ones(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UnusableAdapter, match=reason):
        read_lora_header(tmp_path / "other.safetensors")


def test_a_lora_of_another_model_is_refused_with_the_first_module_that_does_not_fit(pairs):
    sd, xl = pairs("tiny_sd"), pairs("tiny_sdxl")
    (sd.folder / "foreign.safetensors").write_bytes((xl.folder / "all.safetensors").read_bytes())
    with pytest.raises(UnusableAdapter, match="loras: foreign does not fit unet: "):
        sd.loras.hold([sd.lora("foreign")])


def test_numbers_that_are_not_finite_are_refused(pair):
    tensors = load_file(pair.folder / "attention.safetensors")
    name = next(name for name in tensors if name.startswith("lora_unet") and name.endswith("lora_up.weight"))
    tensors[name][0, 0] = float("nan")
    save_file(tensors, pair.folder / "broken.safetensors")
    with pytest.raises(UnusableAdapter, match="not finite"):
        pair.loras.hold([pair.lora("broken")])


def test_texts_are_encoded_again_only_for_a_lora_that_changes_text_encoders(pair):
    encoder, spec, lora = pair.stages.text_encoder, pair.spec(()), pair.lora("all")
    encoder.encode([spec])
    forwards = encoder.asked - encoder.cached
    encoder.encode([replace(spec, loras=(replace(lora, changes_text=False),))])
    assert encoder.asked - encoder.cached == forwards
    encoder.encode([replace(spec, loras=(lora,))])
    assert encoder.asked - encoder.cached > forwards


def test_a_header_says_rank_components_and_trigger_words(pair):
    metadata = {"ss_tag_frequency": '{"10_chalk": {"chalk": 30, "blackboard": 40}}', "ss_output_name": "chalk v1"}
    components = {
        "unet": pair.pipeline.unet,
        "text_encoder": pair.stages.text_encoder._components.loaded["text_encoder"],
    }
    path = write_lora(
        pair.folder / "said.safetensors", {"text_encoder": components["text_encoder"]}, rank=5, metadata=metadata
    )
    header = read_lora_header(path)
    assert (header.rank, header.components, header.title) == (5, ("text_encoder",), "chalk v1")
    assert header.trigger_words == ("blackboard", "chalk")
