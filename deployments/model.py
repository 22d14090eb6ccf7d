"""Wires the application of one model: three stages, and what is known of the model while they sleep."""

from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from deployments.config import ModelConfig
from deployments.denoiser import Denoiser
from deployments.schema import GenerationRequest, resolve
from deployments.text_encoder import TextEncoder
from deployments.vae_decoder import VaeDecoder
from models.checkpoint import read_card
from models.spec import ModelCard


class Model:
    """The root of a model's application: one replica, without tensors, that is there also when no stage is."""

    def __init__(self, card: ModelCard, *stages: DeploymentHandle) -> None:
        """Take the stages' handles because Serve deploys what the root is given: the Dispatcher calls them itself."""
        self._card = card

    def card(self) -> ModelCard:
        """Return what the checkpoint allows and prefers."""
        return self._card


def build(config: ModelConfig) -> Application:
    """Return the application; a checkpoint that cannot be served is refused here, before a replica starts.

    Raises:
        UnusableCheckpoint: which file, and why.
        InvalidRequest: the model does not allow one of its defaults.
    """
    card = read_card(config.checkpoint, operators=config.defaults)
    resolve(GenerationRequest.model_validate({"prompt": "a circle"}), card)  # defaults must be what the model allows
    return serve.deployment(Model).bind(
        card,
        serve.deployment(TextEncoder).bind(config, card),
        serve.deployment(Denoiser).bind(config, card),
        serve.deployment(VaeDecoder).bind(config, card),
    )
