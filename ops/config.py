"""`python -m ops.config FILE ...`: check config files as a whole, each wrong key with its value and bound.

Serve checks its own keys, and `args` only once it builds an application; what two applications say of each other nobody
would check.
"""

import argparse
import shlex
import socket
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import chdir
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from deployments.config import AppConfig, UiConfig
from deployments.keys import UnusableKeys, read_keys
from deployments.model_config import WITHOUT_DEFAULT, ModelConfig
from deployments.request_errors import check_defaults
from deployments.settings import Settings
from models.adapters.card_folder import check_folder
from models.checkpoint.location import checkpoint_name
from models.errors import UnusableAdapter, UnusableCheckpoint
from models.postprocess import UnusablePostProcessor, check_modules
from ops.config_errors import RENAMED, errors_of, line_of, lines_of
from ops.defaults import OF_SET, check_model, default_lines
from ops.deployment_options import GENERATION_APP, MODEL_APP, UI_APP, deployment_problems
from ops.serve_keys import serve_problems
from ops.unique_keys import UniqueKeyLoader

if TYPE_CHECKING:  # Ray takes seconds to import: only those functions do that cannot do without
    from ray.serve.schema import ServeDeploySchema

ROOT = Path(__file__).resolve().parent.parent  # the checkout
ARGS: dict[str, type[Settings]] = {GENERATION_APP: AppConfig, MODEL_APP: ModelConfig, UI_APP: UiConfig}


class UnusableConfig(Exception):
    """What is wrong with a config file, in words."""


@dataclass(frozen=True)
class Config:
    """A config file that can be served."""

    serve: "ServeDeploySchema"
    generation: AppConfig  # the args of the application of that name


def read(
    path: Path,
    host: str | None = None,
    port: int | None = None,
    model: str | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Return the config of a file, with the command line's words in place of its own.

    `model` replaces all models; `defaults`, as `read_set` returns them, go over those of the first one.

    Raises:
        UnusableConfig: each wrong key in a line.
    """
    from ray.serve.schema import ServeDeploySchema

    config = load(path)
    try:
        overrides = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
        config["http_options"] = (config.get("http_options") or {}) | overrides
        if model is not None:
            serve_only(config, model)
        if defaults:
            _set_defaults(config, defaults)
        serve = ServeDeploySchema.model_validate(config)
        problems = [*_wrong_port(serve.http_options.port), *_problems(config, defaults or {})]
        problems = problems or list(_strangers(serve.http_options.host, generation_of(config)))
    except ValidationError as error:
        problems = [line_of("", each) for each in error.errors()]
    except UnusableCheckpoint as error:
        raise UnusableConfig(error.message) from error
    except (LookupError, TypeError) as error:
        raise UnusableConfig(f"{path} cannot be used: {error}") from error
    if problems:
        of_file = [f"  {line}" for line in problems if not line.startswith(OF_SET)]
        of_set = [line for line in problems if line.startswith(OF_SET)]
        raise UnusableConfig("\n".join([*of_set, *([f"{path} cannot be used:"] if of_file else []), *of_file]))
    return Config(serve, generation_of(config))


def read_set(words: str) -> dict[str, str]:
    """Return the defaults that `FIELD=VALUE FIELD=VALUE` names; a value with spaces is in quotes, as in a shell.

    Raises:
        UnusableConfig: a word that is none, or a field that can have no default. `read` checks the values.
    """
    try:
        pairs = [_default(word) for word in shlex.split(words)]
    except ValueError as error:  # a quotation without an end
        raise UnusableConfig(f"SET={words}: {error}.") from error
    given = dict(pairs)
    if len(given) < len(pairs):
        raise UnusableConfig(f"{OF_SET}each field once; got {', '.join(name for name, _ in pairs)}.")
    if known := next((name for name in WITHOUT_DEFAULT if name in given), None):
        raise UnusableConfig(f"{OF_SET}{known} can have no default.")
    return given


def _default(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise UnusableConfig(f"{OF_SET}{word} must be FIELD=VALUE, for example num_inference_steps=4.")
    return name, value


def check_files(config: Config) -> list[str]:
    """Check the files that a config names, before anything starts or changes: checkpoints, folders of
    LoRAs and embeddings, modules of post-processors and API keys.

    Returns for each model that cannot be served its name and the reason: it does not keep the others from it.

    Raises:
        UnusableConfig: no model can be served, or a file of keys cannot be used.
    """
    broken: list[str] = []
    for app in config.serve.applications:
        kind = ARGS.get(app.import_path)
        settings = kind.model_validate(app.args) if kind else None
        try:
            if isinstance(settings, AppConfig | UiConfig) and settings.keys_path:
                read_keys(settings.keys_path)
            elif isinstance(settings, ModelConfig) and app.name in config.generation.models:
                if card := check_model(settings):
                    check_defaults(card)
                check_folder("adapters", settings.adapters_path)
                check_folder("embeddings", settings.embeddings_path)
                check_modules(settings.postprocess)
        except UnusableKeys as error:
            raise UnusableConfig(f"{app.name}: {error}") from error
        except (UnusableCheckpoint, UnusableAdapter, UnusablePostProcessor) as error:
            broken.append(f"{app.name}: {error}")
    if len(broken) == len(config.generation.models):
        raise UnusableConfig("\n".join(broken))
    return broken


def load(path: Path) -> dict[str, Any]:
    """Return a config file as it stands; of a Kubernetes manifest, the one in its RayService. Raises UnusableConfig."""
    try:
        found = yaml.load_all(path.read_text(encoding="utf-8"), UniqueKeyLoader)
        documents = [each for each in found if isinstance(each, dict)]
        config: dict[str, Any] = documents[0] if documents else {}
        for document in documents:
            if document.get("kind") == "RayService":
                config = _embedded(document["spec"]["serveConfigV2"])
        application(config, "generation")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError) as error:
        raise UnusableConfig(f"{path} cannot be used: {error}") from error
    return config


def _embedded(text: str) -> Any:
    """Return the config inside a manifest. Raises yaml.YAMLError, which says whose lines it counts."""
    try:
        return yaml.load(text, UniqueKeyLoader)  # nosec B506  # a SafeLoader
    except yaml.YAMLError as error:
        raise yaml.YAMLError(f"serveConfigV2: {error}") from error


def generation_of(config: Mapping[str, Any]) -> AppConfig:
    """Return the args of the application `generation`. Raises ValidationError."""
    return AppConfig.model_validate(args_of(application(config, "generation")))


def application(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an application of a config by name. Raises LookupError."""
    for app in config.get("applications") or []:
        if isinstance(app, dict) and app.get("name") == name:
            return app
    raise LookupError(f"it has no application named `{name}`")


def args_of(app: Mapping[str, Any]) -> dict[str, Any]:
    """Return an application's `args`; a file may leave them out."""
    return app.get("args") or {}


def serve_only(config: dict[str, Any], checkpoint: str) -> None:
    """Let the config serve one checkpoint, with the settings and aliases of its first model, under the checkpoint's
    own name."""
    generation = application(config, "generation")
    served = generation_of(config).models
    first = application(config, served[0])
    others = [app for app in config["applications"] if app.get("name") not in served]
    name = checkpoint_name(checkpoint)
    args = args_of(first) | {"checkpoint": checkpoint, "defaults": {}}
    for of_the_other in ("manifest", "prediction_type", "adapters", "embeddings"):
        args.pop(of_the_other, None)
    if isinstance(args.get("vae"), dict):
        args["vae"] = {key: value for key, value in args["vae"].items() if key != "checkpoint"}
    first = first | {"name": name, "args": args}
    aliases = {alias: name for alias, of in generation_of(config).aliases.items() if of == served[0] and alias != name}
    generation["args"] = args_of(generation) | {"models": [name], "aliases": aliases}
    config["applications"] = [*others, first]


def _set_defaults(config: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Let the first model have these defaults, over those that the config has for it."""
    app = application(config, generation_of(config).models[0])
    args = args_of(app)
    app["args"] = args | {"defaults": {**(args.get("defaults") or {}), **defaults}}


def _problems(config: Mapping[str, Any], of_set: Collection[str]) -> Iterator[str]:
    """Say what is wrong with keys of Serve, with applications' args, or between them.

    `of_set` are fields of the first model.
    """
    yield from serve_problems(config)
    apps = {app["name"]: app for app in config["applications"]}
    exporter = (config.get("tracing_config") or {}).get("exporter_import_path")
    if exporter in RENAMED:
        yield f"tracing_config.exporter_import_path = {exporter!r}: is called {RENAMED[exporter]} now"
    wrong = False
    first = generation_of(config).models[0] if of_set else None
    for name, app in apps.items():
        kind = ARGS.get(app["import_path"])
        if kind is None:
            continue  # somebody's own application beside ours
        if kind is ModelConfig:
            found = _wrong_model(app, of_set if name == first else ())
        else:
            found = lines_of(kind, args_of(app), f"{name}.")
        found += deployment_problems(app)
        wrong = wrong or bool(found)
        yield from found
    if not wrong:
        for name in generation_of(config).models:
            if apps.get(name, {}).get("import_path") != MODEL_APP:
                yield f"generation.models: there is no application `{name}` with import_path {MODEL_APP}"
        yield from _between(apps)


def _between(apps: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Say which applications lack one that they need, or share what is one application's alone."""
    database = AppConfig.model_validate(args_of(apps["generation"])).database
    for name, app in apps.items():
        kind, args = app["import_path"], args_of(app)
        if kind == UI_APP and (of := UiConfig.model_validate(args).generation_app) not in apps:
            yield f"{name}.generation_app: there is no application `{of}`"
        if kind == GENERATION_APP and name != "generation" and AppConfig.model_validate(args).database == database:
            yield (
                f"{name}: its database is that of `generation`, and two Dispatchers would take the queue from each "
                "other without end. Set another state_dir, or another database_url."
            )


def _wrong_model(app: Mapping[str, Any], of_set: Collection[str]) -> list[str]:
    """Say what is wrong with a model's application."""
    name, args = app["name"], args_of(app)
    of_defaults, others = [], []
    for error in errors_of(ModelConfig, args):
        (of_defaults if error["loc"][0] == "defaults" and len(error["loc"]) > 1 else others).append(error)
    found = [line_of(f"{name}.", error) for error in others]
    return found + default_lines(name, args, of_defaults, of_set)


def _wrong_port(port: int) -> Iterator[str]:
    if not 0 < port < 2**16:
        yield f"http_options.port must be from 1 to 65535, got {port}."


def _strangers(host: str, generation: AppConfig) -> Iterator[str]:
    """Say so where people whom nobody has given a key could call."""
    if not (generation.allow_public or generation.api_keys_file) and beyond_loopback(host):
        yield (
            f"http_options.host = {host!r}: other machines can reach it, and whoever reaches it can use it. In the "
            "args of the application generation, name an `api_keys_file`; or, if you mean it, set `allow_public: true`"
        )


def beyond_loopback(host: str) -> bool:
    """Whether other machines may reach what listens on `host`. A name that is not known here might be anything."""
    try:
        found = socket.getaddrinfo(host or None, 0, flags=socket.AI_PASSIVE)
    except OSError:
        return True
    return not all(ip_address(address[0]).is_loopback for *_, address in found)


def of_this_machine(config: Config) -> list[str]:
    """Return what keeps a start on this machine from using the files that a config names, a line each."""
    try:
        with chdir(ROOT):  # relative paths mean it
            return check_files(config)
    except UnusableConfig as error:
        return str(error).splitlines()


def main() -> int:
    """Check files; 1 if one cannot be used. One that is for another machine may name files that are not on this one."""
    parser = argparse.ArgumentParser(prog="python -m ops.config", description="Check config files.")
    parser.add_argument("files", nargs="+", type=Path)
    failed = 0
    for path in parser.parse_args().files:
        try:
            config = read(path)
            print(f"{path}: can be used")
            for line in of_this_machine(config):
                print(f"  but not on this machine: {line}")
        except UnusableConfig as error:
            failed = 1
            print(error, file=sys.stderr)
    return failed


if __name__ == "__main__":
    sys.exit(main())
