"""`python -m ops.try_model CHECKPOINT`: what Darkroom makes of a checkpoint, in one process, without Ray.

The three stages are loaded and run one after another, as their replicas do it. It prints the card, and seconds and
memory of each stage, and writes an image. It exits with status 1 and the reason where the checkpoint cannot be served.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import diffusers
import numpy as np
import torch
import transformers
import yaml

from deployments.model_config import DenoiserKnobs
from deployments.request_errors import check_defaults, read_request
from deployments.request_warnings import request_warnings
from deployments.resolution import resolve
from deployments.stages.memory import peak_bytes
from models.adapters.card_folder import check_folder
from models.adapters.embedding_folder import with_embeddings
from models.checkpoint.assembly import Overrides
from models.checkpoint.card import read_card
from models.checkpoint.loading import choose_device, choose_dtype
from models.checkpoint.location import resolve_checkpoint
from models.checkpoint.original_configs import PredictionType
from models.denoiser.batch_sizer import BatchSizer
from models.denoiser.engine import DenoisingEngine, Outcome
from models.denoiser.model import DenoiserModel, load_denoiser
from models.denoiser.preview import Preview
from models.denoiser.state import DenoiseState, new_state
from models.errors import DarkroomError
from models.image_file import encode_image
from models.model_card import ModelCard
from models.parameters import DtypeName, OutputFormat
from models.spec import ImageSpec, StepUpdate
from models.text_encoder import EncodedPrompt, load_text_encoder
from models.vae import Decoded, load_vae

MIB = 2**20


def main(argv: Sequence[str] | None = None) -> int:
    """Try a checkpoint; return the exit status."""
    args = parse(argv)
    for library in (diffusers, transformers):  # what they say of configs and progress is in the way here
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    try:
        overrides = Overrides(args.vae, args.prediction_type)
        check_folder("--embeddings", args.embeddings)
        card = read_card(args.checkpoint, None, args.manifest, args.allowed_root, overrides)
        card = with_embeddings(card, args.embeddings)
        print(described(card))
        check_defaults(card)
        request = read_request(fields(args), card)
        [spec] = resolve(request, card)
        print(f"\n{spec.prompt!r}: seed {spec.seed}, {spec.width}x{spec.height}, {spec.sampler}, ", end="")
        print(f"{spec.num_inference_steps} steps, guidance {spec.guidance_scale:g}")
        for warning in request_warnings(request, spec, card):
            print(f"warning: {warning}")
        generate(args, card, spec)
    except DarkroomError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m ops.try_model", description=__doc__)
    parser.add_argument("checkpoint", help="a diffusers folder, a .safetensors file, or a hub id")
    parser.add_argument("--vae", help="of a single file: another VAE, a file or a folder")
    parser.add_argument("--prediction-type", choices=get_args(PredictionType), help="of a single file")
    parser.add_argument("--prompt", default="a red circle on a blue background")
    parser.add_argument("--negative-prompt", default=None)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--size", metavar="WxH", default=None, help="default: the checkpoint's own")
    parser.add_argument(
        "--set", metavar="FIELD=VALUE", action="append", default=[], help="any other field of a request"
    )
    parser.add_argument("--out", type=Path, default=Path("image.png"), help="the image; default: image.png")
    parser.add_argument("--latents", type=Path, help="a .npy file that gets the finished latents, float32 [C, h, w]")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=get_args(DtypeName), default="float32")
    parser.add_argument("--manifest", type=Path, help="SHA-256 sums that the files must have")
    parser.add_argument("--allowed-root", type=Path, action="append", default=[], help="where links may lead")
    parser.add_argument("--embeddings", type=Path, metavar="FOLDER", help="textual inversions that prompts name")
    args = parser.parse_args(argv)
    if args.size and not all(side.isdecimal() for side in args.size.partition("x")[::2]):
        parser.error(f"--size {args.size}: must be WIDTHxHEIGHT in pixels, for example 1024x768.")
    try:
        args.set = dict(map(setting, args.set))
    except ValueError as error:
        parser.error(f"--set {error}")
    for option, path in (("--out", args.out), ("--latents", args.latents)):
        if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
            parser.error(f"{option} {path}: its folder cannot be written to.")
    if image_format(args.out) not in get_args(OutputFormat):
        parser.error(f"--out {args.out}: must end in {', '.join(get_args(OutputFormat))} or jpg.")
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device here; use cpu or auto.")
    return args


def setting(words: str) -> tuple[str, Any]:
    """Return name and value of FIELD=VALUE, the value as YAML has it."""
    name, equals, value = words.partition("=")
    if not equals or name in ("num_images", "output_format"):
        raise ValueError(f"{words}: must be a field of one image, for example guidance_scale=5; --out has the format.")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError:
        return name, value


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of a request that the command line names."""
    chosen: dict[str, Any] = {"prompt": args.prompt, "seed": args.seed, "output_format": image_format(args.out)}
    if args.negative_prompt is not None:
        chosen["negative_prompt"] = args.negative_prompt
    if args.size:
        chosen["width"], chosen["height"] = map(int, args.size.split("x"))
    return chosen | args.set


def image_format(out: Path) -> str:
    """Return the format that a file name asks for."""
    suffix = out.suffix.removeprefix(".").lower()
    return "jpeg" if suffix == "jpg" else suffix


def described(card: ModelCard) -> str:
    """Return the card as people read it."""
    bounds = ", ".join(f"{name} {least} to {most}" for name, (least, most) in card.bounds.items())
    lines = [
        f"{card.id}: family {card.family}, digest {card.digest}",
        f"bounds: {bounds}; sizes are multiples of {card.size_multiple} pixels",
        f"samplers: {', '.join(card.samplers)}",
        f"defaults: {', '.join(f'{name} {value!r}' for name, value in card.defaults.items())}",
        f"prompt: {card.max_tokens} tokens",
        f"guidance: {'an input of the model: one row' if card.embedded_guidance else 'two rows'}",
    ]
    usable = [each.name for each in card.embeddings or () if each.problem is None]
    lines += [f"embeddings: {', '.join(usable) or 'none'}"] if card.embeddings is not None else []
    unusable = (f"embedding {each.name} {each.problem}" for each in card.embeddings or () if each.problem is not None)
    return "\n".join([*lines, *(f"warning: {warning}" for warning in (*card.warnings, *unusable))])


@torch.inference_mode()
def generate(args: argparse.Namespace, card: ModelCard, spec: ImageSpec) -> None:
    """Load and run the stages one after another, report on each, and write the image.

    Raises:
        DarkroomError: what a stage raises.
    """
    folder = resolve_checkpoint(args.checkpoint, Overrides(args.vae, args.prediction_type))
    device, dtype = choose_device(args.device), choose_dtype(args.dtype)
    with reported("text encoder", device) as lap:
        encoder = load_text_encoder(folder, card.family, device, dtype)
        if args.embeddings is not None:
            encoder.enable_embeddings(args.embeddings, card.embedding_widths, card.max_tokens)
        lap("loaded", encoder.parameter_bytes)
        [encoded] = encoder.encode([spec])
        if isinstance(encoded, DarkroomError):
            raise encoded
        lap("encoded")
    for name, end in encoded.cut.items():
        print(f"warning: the end of the {name.replace('_', ' ')} was not read: {end!r}")
    with reported("denoiser", device) as lap:
        denoiser = load_denoiser(folder, card.family, device, dtype)
        lap("loaded", denoiser.parameter_bytes)
        latents = denoise(denoiser, spec, encoded)
        lap("denoised")
    if args.latents:
        np.save(args.latents, latents)
        print(f"latents: {args.latents}")
    with reported("VAE", device) as lap:
        vae = load_vae(folder, card.family, device, dtype)
        lap("loaded", vae.parameter_bytes)
        [decoded] = vae.decode([latents])
        lap("decoded")
    if not isinstance(decoded, Decoded):
        raise decoded
    if decoded.tiled:
        print("warning: the image did not fit into memory whole: it was decoded in tiles, whose seams may show.")
    args.out.write_bytes(encode_image(decoded, spec, card.digest))
    print(f"image: {args.out}")


def denoise(model: DenoiserModel, spec: ImageSpec, encoded: EncodedPrompt) -> np.ndarray:
    """Return the finished latents of one image, float32 [C, h, w].

    Raises:
        DarkroomError: what the engine says of the image.
    """
    finished: Future[np.ndarray] = Future()

    def publish(outcomes: list[tuple[DenoiseState, Outcome]]) -> None:
        for _, outcome in outcomes:
            if not isinstance(outcome, StepUpdate):
                finished.set_exception(outcome)
            elif outcome.latents is not None:
                finished.set_result(outcome.latents)

    sizer = BatchSizer(model, DenoiserKnobs().max_rows)
    engine = DenoisingEngine(model, publish, sizer=sizer, preview=Preview(()))
    engine.start()
    try:
        engine.submit(new_state(spec, encoded, model.plan(spec), model))
        return finished.result()
    finally:
        engine.stop()


@contextmanager
def reported(stage: str, device: torch.device) -> Iterator[Callable[..., None]]:
    """Print one line on a stage when it is done: seconds of each lap, weights, and the most memory so far."""
    words: list[str] = []
    began = time.perf_counter()

    def lap(what: str, weights: int | None = None) -> None:
        nonlocal began
        now = time.perf_counter()
        words.append(f"{what} in {now - began:.1f} s" + (f" ({weights / MIB:.0f} MiB)" if weights is not None else ""))
        began = now

    yield lap
    words.append(f"process at most {peak_bytes() / MIB:.0f} MiB")
    if device.type == "cuda":
        words.append(f"GPU at most {torch.cuda.max_memory_allocated() / MIB:.0f} MiB")
    print(f"{stage}: {', '.join(words)}")


if __name__ == "__main__":
    sys.exit(main())
