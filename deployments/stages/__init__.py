"""The stages of a model's application, and their name in each place that refers to them. No torch, no Ray."""

from dataclasses import dataclass
from typing import Literal

from models.families.base import Domain

Phase = Literal["encode", "denoise", "decode"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage. Its names are part of the interface: configs, metrics and clients hold them."""

    deployment: str  # in Ray Serve: the stage's class, a config's `deployments`, the label of metrics
    key: str  # in a model's `args` and in `/v1/queue`
    phase: Phase  # of a job whose image is here: `progress.stage`
    domain: Domain  # of the tensors that it computes: which parts of a checkpoint it loads
    label: str  # for people
    activity: str  # for people: what happens to an image here


TEXT_ENCODER = Stage("TextEncoder", "text_encoder", "encode", "text", "Text encoder", "Reading the prompt")
DENOISER = Stage("Denoiser", "denoiser", "denoise", "latents", "Denoiser", "Denoising")
VAE = Stage("Vae", "vae", "decode", "pixels", "VAE", "Decoding")

STAGES = (TEXT_ENCODER, DENOISER, VAE)  # in the order in which an image passes them
MODEL = "Model"  # the deployment at the root of a model's application, beside the stages
