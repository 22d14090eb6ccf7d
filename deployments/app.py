"""Wires the applications: `generation`, which is the Dispatcher and the HTTP API, and one for each model."""

from dataclasses import replace

from ray import serve
from ray.serve import Application

from deployments.api.deployment import ApiIngress
from deployments.config import AppConfig
from deployments.dispatcher.deployment import Dispatcher
from deployments.keys import read_keys
from deployments.model_config import DenoiserKnobs, ModelConfig
from deployments.pipeline import Pipeline
from deployments.request_errors import check_defaults
from deployments.serve.replicas import stage_replicas
from deployments.stages.model import Model
from models.adapters.card_folder import check_folder
from models.adapters.embedding_folder import with_embeddings
from models.checkpoint.location import check, resolve_checkpoint


def build(config: AppConfig) -> Application:
    """Return the application `generation`.

    Raises:
        UnusableKeys: the file of API keys, and why.
    """
    if config.keys_path is not None:
        read_keys(config.keys_path)
    dispatcher = serve.deployment(Dispatcher).bind(
        {name: Pipeline(name, config.images) for name in config.models},
        config.queue,
        inputs=config.inputs,
        database_url=config.database,
        images=config.images,
        replicas=stage_replicas,
        keys=config.keys_path,
        aliases=config.aliases,
    )
    return ApiIngress.bind(
        dispatcher,
        config.models,
        config.images,
        config.inputs,
        config.keys_path,
        config.allowed_hosts,
        config.cors_origins,
        config.public_url,
        config.sizes,
    )


def build_model(config: ModelConfig) -> Application:
    """Return the application of one model; a checkpoint that cannot be served is refused here, before a replica starts.

    Raises:
        UnusableCheckpoint: which file, and why; or the defaults that the model does not allow.
        UnusableAdapter: there is no such folder of LoRAs or embeddings.
        UnusablePostProcessor: an entry of `postprocess`, and why.
    """
    check(config.checkpoint, config.allowed_roots, config.overrides)
    check_folder("adapters", config.adapters_path)
    check_folder("embeddings", config.embeddings_path)
    # Not at the top: they load torch, transformers and diffusers, seconds of a core that `build` has no use for, nor a
    # checkpoint that is refused; and Ray tries a build that fails four times.
    from deployments.stages.denoiser import Denoiser
    from deployments.stages.text_encoder import TextEncoder
    from deployments.stages.vae import Vae
    from models.checkpoint.card import read_card
    from models.checkpoint.loading import choose_device
    from models.latent_rgb import fit_latent_rgb
    from models.postprocess import load_classes
    from models.vae import load_vae

    defaults = config.defaults.chosen
    card = read_card(config.checkpoint, defaults, config.manifest, config.allowed_roots, config.overrides)
    check_defaults(with_embeddings(card, config.embeddings_path))
    load_classes(config.postprocess)
    vae = load_vae(resolve_checkpoint(config.checkpoint, config.overrides), card.family, choose_device("cpu"))
    card = replace(card, latent_rgb=fit_latent_rgb(vae))
    return serve.deployment(Model).bind(
        card,
        serve.deployment(TextEncoder).bind(config, card),
        serve.deployment(Denoiser, user_config=DenoiserKnobs().model_dump()).bind(config, card),
        serve.deployment(Vae).bind(config, card),
        adapters=config.adapters_path,
        max_lora_rank=config.max_lora_rank,
        embeddings=config.embeddings_path,
    )
