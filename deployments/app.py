"""Wires the application `generation`: three stages, the Dispatcher, the HTTP API."""

from ray import serve
from ray.serve import Application

from deployments.api.deployment import ApiIngress
from deployments.config import AppConfig
from deployments.denoiser import Denoiser
from deployments.dispatcher.deployment import Dispatcher
from deployments.keys import read_keys
from deployments.pipeline import Pipeline
from deployments.replicas import stage_replicas
from deployments.schema import GenerationRequest, resolve
from deployments.text_encoder import TextEncoder
from deployments.vae_decoder import VaeDecoder
from models.checkpoint import read_card


def build(config: AppConfig) -> Application:
    """Return the application; a checkpoint that cannot be served is refused here, before a replica starts.

    Raises:
        UnusableCheckpoint: which file, and why.
        InvalidRequest: the model does not allow one of its defaults.
        UnusableKeys: the file of API keys, and why.
    """
    if config.keys_path is not None:
        read_keys(config.keys_path)
    card = read_card(config.model.checkpoint, config.model.id, config.model.defaults)
    resolve(GenerationRequest.model_validate({"prompt": "a circle"}), card)  # defaults must be what the model allows
    images = config.state_path / "images"
    pipeline = Pipeline(
        serve.deployment(TextEncoder).bind(config.model, config.text_encoder, card.family),
        serve.deployment(Denoiser).bind(config.model, config.denoiser, card),
        serve.deployment(VaeDecoder).bind(config.model, config.vae_decoder, images, card.digest),
        card.digest,
    )
    dispatcher = serve.deployment(Dispatcher).bind(
        card,
        pipeline,
        config.queue,
        database_url=config.database,
        images=images,
        max_rows=config.denoiser.max_rows,
        replicas=stage_replicas,
        keys=config.keys_path,
    )
    return ApiIngress.bind(dispatcher, images, config.keys_path)
