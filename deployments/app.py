"""Wires the application `generation`: the Dispatcher and the HTTP API. Models are applications of their own."""

from ray import serve
from ray.serve import Application

from deployments.api.deployment import ApiIngress
from deployments.config import AppConfig
from deployments.dispatcher.deployment import Dispatcher
from deployments.keys import read_keys
from deployments.pipeline import Pipeline
from deployments.replicas import stage_replicas


def build(config: AppConfig) -> Application:
    """Return the application.

    Raises:
        UnusableKeys: the file of API keys, and why.
    """
    if config.keys_path is not None:
        read_keys(config.keys_path)
    dispatcher = serve.deployment(Dispatcher).bind(
        {name: Pipeline(name, config.images) for name in config.models},
        config.queue,
        database_url=config.database,
        images=config.images,
        replicas=stage_replicas,
        keys=config.keys_path,
    )
    return ApiIngress.bind(dispatcher, config.models, config.images, config.keys_path)
