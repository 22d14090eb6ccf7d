"""What a config file may say, and what is said of one that cannot be used."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.model_config import ModelConfig
from ops import config
from ops.config import ROOT, UnusableConfig

FILES = [ROOT / "serve_config.yaml", *sorted((ROOT / "ops" / "configs").glob("*.yaml"))]


def written(tmp_path: Path, served: dict[str, dict[str, Any]] | None = None, **args: Any) -> Path:
    """Return a config file whose application `generation` has `args`, and one for each model."""
    apps = [
        {"name": "generation", "route_prefix": "/v1", "import_path": "deployments.app:build", "args": args},
        *(
            {"name": name, "route_prefix": None, "import_path": "deployments.app:build_model", "args": given}
            for name, given in (served or {"shapes": {}}).items()
        ),
    ]
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": apps}))
    return path


def checkpoint_with(shapes: Path, folder: Path, **settings: Any) -> Path:
    """Return a copy of the shapes checkpoint with other entries in its `darkroom.json`."""
    shutil.copytree(shapes, folder)
    description = folder / "darkroom.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | settings))
    return folder


def refusal(path: Path, **options: Any) -> str:
    """Return why a config file is refused."""
    with pytest.raises(UnusableConfig) as caught:
        config.read(path, **options)
    return str(caught.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_config_of_the_checkout_is_valid_and_private(path: Path) -> None:
    found = config.read(path)
    assert found.serve.http_options.host == "127.0.0.1"
    assert not found.generation.allow_public


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_config_of_the_checkout_logs_what_is_said_of_jobs(path: Path) -> None:
    found = config.read(path).serve.logging_config
    assert found is not None
    assert found.encoding == "JSON"


def test_host_and_port_of_the_command_line_replace_those_of_the_file(tmp_path: Path) -> None:
    http = config.read(written(tmp_path), host="::1", port=8123).serve.http_options
    assert (http.host, http.port) == ("::1", 8123)
    http = config.read(written(tmp_path)).serve.http_options
    assert (http.host, http.port) == ("127.0.0.1", 8000)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.7", "no-such-name.invalid"])
def test_a_host_beyond_loopback_is_refused_without_keys_until_the_config_allows_it(tmp_path: Path, host: str) -> None:
    said = refusal(written(tmp_path), host=host)
    assert f"http_options.host = {host!r}: other machines can reach it" in said
    for allowed in ({"allow_public": True}, {"api_keys_file": "keys.json"}):
        assert config.read(written(tmp_path, **allowed), host=host).serve.http_options.host == host


@pytest.mark.parametrize("origin", ["https://app.example.org", "http://localhost:3000", "http://[::1]:3000"])
def test_other_sites_are_allowed_by_their_origins(tmp_path: Path, origin: str) -> None:
    assert config.read(written(tmp_path, cors_origins=[origin])).generation.cors_origins == (origin,)
    assert config.read(written(tmp_path, public_url=origin)).generation.public_url == origin


@pytest.mark.parametrize("key", ["public_url", "cors_origins"])
@pytest.mark.parametrize(
    "value", ["images.example.org", "https://a.org/", "https://a.org/v1", "HTTPS://A.org", "null", "", "ftp://a"]
)
def test_what_is_no_origin_is_shown_with_one_that_is(tmp_path: Path, key: str, value: str) -> None:
    rule = "must be an origin in lower case, such as https://example.org or http://localhost:3000"
    got = f", got {value!r}" if value else ""
    path, given = (f"{key}[0]", [value]) if key == "cors_origins" else (key, value)
    assert f"generation.{path} {rule}{got}." in refusal(written(tmp_path, **{key: given}))


def test_pages_of_any_site_may_call_where_each_call_needs_a_key_alone(tmp_path: Path) -> None:
    found = config.read(written(tmp_path, cors_origins=["*"], api_keys_file="keys.json"))
    assert found.generation.cors_origins == ("*",)
    said = refusal(written(tmp_path, cors_origins=["*"]))
    assert "generation cors_origins: * needs an api_keys_file: without keys any page could use the service." in said
    assert "generation.public_url must be an origin" in refusal(written(tmp_path, public_url="*"))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2", "::1"])
def test_on_loopback_no_keys_are_asked_for(tmp_path: Path, host: str) -> None:
    assert config.read(written(tmp_path), host=host).serve.http_options.host == host


def test_a_model_of_the_command_line_is_served_alone_under_its_own_name(tmp_path: Path) -> None:
    served = {"old": {"dtype": "bfloat16", "defaults": {"guidance_scale": 3}}, "other": {}}
    found = config.read(written(tmp_path, served, models=["old", "other"]), model="owner/name@main")
    assert found.generation.models == ("name",)
    assert [app.name for app in found.serve.applications] == ["generation", "name"]
    given = found.serve.applications[1].args
    assert given == {"checkpoint": "owner/name@main", "dtype": "bfloat16", "defaults": {}}


def test_files_that_belong_to_the_first_model_are_not_those_of_a_model_of_the_command_line(tmp_path: Path) -> None:
    files = {"manifest": "sums", "adapters": "loras", "embeddings": "inversions", "prediction_type": "v_prediction"}
    path = written(tmp_path, {"shapes": {**files, "vae": {"checkpoint": "vae", "threads": 2}}})
    given = config.read(path, model="owner/name@main").serve.applications[1].args
    assert given == {"checkpoint": "owner/name@main", "defaults": {}, "vae": {"threads": 2}}


def test_a_model_of_the_command_line_has_the_aliases_of_the_first_model(tmp_path: Path) -> None:
    aliases = {"dall-e-3": "old", "dall-e-2": "other", "name": "old"}
    path = written(tmp_path, {"old": {}, "other": {}}, models=["old", "other"], aliases=aliases)
    assert config.read(path).generation.aliases == aliases
    assert config.read(path, model="owner/name@main").generation.aliases == {"dall-e-3": "name"}


def test_an_alias_of_a_model_that_is_not_served_is_shown(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, aliases={"dall-e-3": "old"}))
    assert message.splitlines()[1:] == [
        '  generation.aliases must stand for one of shapes; "dall-e-3" stands for "old".'
    ]


def test_a_model_in_a_path_with_an_at_sign_or_in_the_hubs_cache_is_served_under_its_own_name(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--owner--name-xl/snapshots" / ("0a" * 20)
    for folder, name in ((tmp_path / "me@work/my 'own' model", "my 'own' model"), (snapshot, "name-xl")):
        folder.mkdir(parents=True)
        assert config.read(written(tmp_path), model=str(folder)).generation.models == (name,)


def test_a_model_that_cannot_be_a_path_is_refused_in_words(tmp_path: Path) -> None:
    model = "~nobody-has-this-name/x"
    assert refusal(written(tmp_path), model=model).startswith(f"{model!r}: cannot be a path: ")


@pytest.mark.parametrize("model", [None, "owner/name@main"])
def test_defaults_of_the_command_line_go_over_those_of_the_first_model(tmp_path: Path, model: str | None) -> None:
    served = {"old": {"defaults": {"guidance_scale": 3, "sampler": "euler"}}, "other": {}}
    given = config.read_set("num_inference_steps=4 guidance_scale=0 negative_prompt='a b'")
    found = config.read(written(tmp_path, served, models=["old", "other"]), model=model, defaults=given)
    defaults = {a.name: ModelConfig.model_validate(a.args).defaults.chosen for a in found.serve.applications[1:]}
    kept = {"sampler": "euler"} if model is None else {}
    first = kept | {"num_inference_steps": 4, "guidance_scale": 0.0, "negative_prompt": "a b"}
    assert defaults == ({"old": first, "other": {}} if model is None else {"name": first})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("guidance_scale", "SET: guidance_scale must be FIELD=VALUE, for example num_inference_steps=4."),
        ("seed=7", "SET: seed can have no default."),
        ("deadline_s=7", "SET: deadline_s can have no default."),
        ("clip_skip=1 clip_skip=2", "SET: each field once; got clip_skip, clip_skip."),
        ("negative_prompt='a b", "SET=negative_prompt='a b: No closing quotation."),
    ],
)
def test_a_default_of_the_command_line_that_cannot_be_one_is_refused_in_words(words: str, said: str) -> None:
    with pytest.raises(UnusableConfig) as caught:
        config.read_set(words)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("num_inference_steps=0", "num_inference_steps must be 1 or more, got '0'."),
        ("guidance_scale=high", "guidance_scale must be a number, got 'high'."),
        ("steps=4", "steps is not a known field."),
        ("sampler=magic", "sampler must be one of ddim, "),
        ("width=256", "width must be 128 for shapes, got 256."),
        ("width=9999", "width must be 128 for shapes, got 9999."),
        ("clip_skip=99", "clip_skip must be from 0 to 2 for shapes, got 99."),
        ("sampler=lcm num_inference_steps=60", "num_inference_steps must be at most 50 for lcm, got 60."),
        ("sampler=lcm num_inference_steps=160", "num_inference_steps must be at most 50 for lcm, got 160."),
    ],
)
def test_a_value_of_set_that_the_model_does_not_allow_is_refused_by_the_models_own_bound(
    tmp_path: Path, words: str, said: str
) -> None:
    message = refusal(written(tmp_path), defaults=config.read_set(words))
    assert message.startswith(f"SET: {said}")
    assert message.endswith(" Change it or leave it out.")
    assert "\n" not in message, "the file itself can be used"


def test_every_default_that_the_model_does_not_allow_has_a_line_with_its_key(tmp_path: Path) -> None:
    defaults = {"width": 256, "clip_skip": 99, "sampler": "lcm"}
    path = written(tmp_path, {"mine": {"defaults": defaults}, "other": {"defaults": {"height": 64}}}, models=["mine"])
    assert refusal(path, defaults={"guidance_scale": "31"}).splitlines() == [
        "SET: guidance_scale must be 30 or less, got '31'. Change it or leave it out.",
        f"{path} cannot be used:",
        "  mine.defaults.clip_skip must be from 0 to 2 for shapes, got 99. Change it or leave it out.",
        "  mine.defaults.width must be 128 for shapes, got 256. Change it or leave it out.",
        "  other.defaults.height must be 128 for shapes, got 64. Change it or leave it out.",
    ]


def test_a_default_of_the_checkpoint_that_does_not_go_with_the_operators_is_to_be_set_too(
    tmp_path: Path, shapes: Path
) -> None:
    folder = checkpoint_with(shapes, tmp_path / "slow", defaults={"num_inference_steps": 60})
    path = written(tmp_path, {"slow": {"checkpoint": str(folder), "defaults": {"sampler": "tcd"}}}, models=["slow"])
    assert refusal(path).splitlines()[1:] == [
        "  slow.defaults.num_inference_steps must be at most 50 for tcd, got 60. That is the checkpoint's own default: "
        "set another."
    ]


def test_a_checkpoint_whose_own_defaults_it_does_not_allow_keeps_its_model_alone_from_being_served(
    tmp_path: Path, shapes: Path
) -> None:
    folder = checkpoint_with(shapes, tmp_path / "large", defaults={"width": 256, "height": 512})
    path = written(tmp_path, {"shapes": {}, "large": {"checkpoint": str(folder)}}, models=["shapes", "large"])
    assert config.check_files(config.read(path)) == [
        "large: defaults: width must be 128 for large, got 256. height must be 128 for large, got 512."
    ]


def test_defaults_of_a_checkpoint_that_is_not_here_are_held_to_the_bounds_of_requests(tmp_path: Path) -> None:
    for checkpoint in (str(tmp_path / "none"), f"owner/name@{'0' * 40}"):
        served = {"far": {"checkpoint": checkpoint, "defaults": {"width": 256, "clip_skip": 99}}}
        assert refusal(written(tmp_path, served, models=["far"])).splitlines()[1:] == [
            "  far.defaults.clip_skip must be 32 or less, got 99. Change it or leave it out."
        ]


def test_a_value_out_of_bounds_is_shown_with_key_value_and_bound(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, {"shapes": {"vae": {"threads": 0}}}))
    assert message.splitlines()[1:] == ["  shapes.vae.threads must be 1 or more, got 0."]


def test_a_post_processor_that_is_no_path_to_a_class_is_shown_with_the_form_it_must_have(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, {"shapes": {"postprocess": ["watermark.py"]}}))
    line = "  shapes.postprocess 'watermark.py' must be a class as package.module:Class."
    assert message.splitlines()[1:] == [line]


def test_a_post_processor_whose_module_is_not_there_keeps_its_model_alone_from_being_served(tmp_path: Path) -> None:
    served = {"shapes": {}, "marked": {"postprocess": ["no_such_module:Watermark"]}}
    found = config.read(written(tmp_path, served, models=["shapes", "marked"]))
    reason = "postprocess: no_such_module:Watermark: there is no module no_such_module on Python's path."
    assert config.check_files(found) == [f"marked: {reason}"]


def test_a_key_of_an_earlier_version_is_shown_with_its_name_now(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, {"shapes": {"vae_decoder": {"threads": 2}}}))
    assert message.splitlines()[1:] == ["  shapes.vae_decoder is called vae now"]


def test_an_exporter_of_spans_of_an_earlier_version_is_shown_with_its_path_now(tmp_path: Path) -> None:
    path = written(tmp_path)
    given = yaml.safe_load(path.read_text()) | {"tracing_config": {"exporter_import_path": "deployments.tracing:otlp"}}
    path.write_text(yaml.safe_dump(given))
    key = "tracing_config.exporter_import_path = 'deployments.tracing:otlp'"
    assert refusal(path).splitlines()[1:] == [f"  {key}: is called deployments.serve.tracing:otlp now"]


def test_every_wrong_key_has_its_own_line(tmp_path: Path) -> None:
    path = written(tmp_path, {"shapes": {"text_encoder": {"threads": "many"}}}, queue={"max_wating": 3})
    assert refusal(path).splitlines()[1:] == [
        "  generation.queue.max_wating is not a known field; did you mean max_waiting?",
        "  shapes.text_encoder.threads must be an integer, got 'many'.",
    ]


def test_what_is_wrong_between_two_keys_is_shown_with_the_key_above_both(tmp_path: Path) -> None:
    path = written(tmp_path, queue={"deadline_s": 100, "max_deadline_s": 50})
    line = "  generation.queue deadline_s must be at most max_deadline_s (50)."
    assert refusal(path).splitlines()[1:] == [line]


def test_a_key_of_serve_itself_is_checked_too(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("port: 8000", "port: http"))
    assert "http_options.port must be an integer, got 'http'." in refusal(path)


@pytest.mark.parametrize("port", [-1, 0, 99999])
def test_a_port_that_is_none_is_refused_with_the_bounds(tmp_path: Path, port: int) -> None:
    path = written(tmp_path)
    path.write_text(path.read_text().replace("port: 8000", f"port: {port}"))
    assert refusal(path).splitlines()[1:] == [f"  http_options.port must be from 1 to 65535, got {port}."]


def test_a_model_that_is_no_application_is_named(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, models=["shapes", "sdxl"]))
    assert "generation.models: there is no application `sdxl` with import_path deployments.app:build_model" in message


def test_a_page_of_another_application_is_named(tmp_path: Path) -> None:
    path = written(tmp_path)
    content = yaml.safe_load(path.read_text())
    page = {"name": "ui", "import_path": "gradio_ingress.app:build", "args": {"generation_app": "images"}}
    content["applications"].append(page)
    path.write_text(yaml.safe_dump(content))
    assert "ui.generation_app: there is no application `images`" in refusal(path)


def test_a_second_queue_on_the_same_database_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, state_dir=str(tmp_path / "one"))
    content = yaml.safe_load(path.read_text())
    second: dict[str, Any] = {"name": "more", "route_prefix": "/more", "import_path": "deployments.app:build"}
    content["applications"].append(second)
    second["args"] = {"state_dir": str(tmp_path / "two")}
    path.write_text(yaml.safe_dump(content))
    assert config.read(path)
    second["args"] = {"state_dir": str(tmp_path / "one")}
    path.write_text(yaml.safe_dump(content))
    assert "more: its database is that of `generation`" in refusal(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("applications: [", "cannot be used"),
        ("applications: []", "no application named `generation`"),
        ("just words", "no application named `generation`"),
        ("{http_options: words, applications: [{name: generation, import_path: a.b}]}", "cannot be used"),
    ],
)
def test_a_file_that_is_no_config_is_refused_in_words(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(content)
    assert said in refusal(path)


@pytest.mark.parametrize(
    ("content", "twice"),
    [
        ("http_options:\n  host: 127.0.0.1\n  port: 8000\n  host: 0.0.0.0\n", "host is on line 2 and again on line 4."),
        ("applications: []\napplications: []\n", "applications is on line 1 and again on line 2."),
        ("applications: [{name: a, name: b}]\n", "name is on line 1 and again on line 1."),
        ("---\na: 1\n---\nb: 1\n'b': 2\n", "b is on line 4 and again on line 5."),
        (
            "kind: RayService\nspec:\n  serveConfigV2: |\n    a: 1\n    a: 2\n",
            "serveConfigV2: a is on line 1 and again on line 2.",
        ),
    ],
)
def test_a_key_that_comes_twice_is_refused_by_all_that_read_a_config(tmp_path: Path, content: str, twice: str) -> None:
    path = tmp_path / "serve.yaml"
    path.write_text(content)
    for read in (config.read, config.load):
        with pytest.raises(UnusableConfig) as caught:
            read(path)
        assert str(caught.value) == f"{path} cannot be used: {twice} Keep one of them."


def test_a_key_may_override_one_that_it_merges(tmp_path: Path) -> None:
    text = "x: &x {name: a, import_path: b}\napplications: [{<<: *x, name: generation}, {<<: *x, name: c}]\n"
    path = tmp_path / "serve.yaml"
    path.write_text(text)
    assert [app["name"] for app in config.load(path)["applications"]] == ["generation", "c"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in refusal(tmp_path / "none.yaml")


def test_the_command_says_of_each_file_whether_it_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["config", str(FILES[0]), str(written(tmp_path, models=["sdxl"]))])
    assert config.main() == 1
    said = capsys.readouterr()
    assert f"{FILES[0]}: can be used" in said.out
    assert "`sdxl`" in said.err


def test_the_command_says_which_files_a_start_on_this_machine_would_refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys.json"
    monkeypatch.chdir(tmp_path)  # relative paths in a config are from the checkout all the same
    path = written(tmp_path, {"shapes": {}, "far": {"checkpoint": "/nope"}}, models=["shapes", "far"])
    monkeypatch.setattr("sys.argv", ["config", str(path)])
    assert config.main() == 0
    can_be_used, of_model = capsys.readouterr().out.splitlines()
    assert can_be_used == f"{path}: can be used"
    assert of_model.startswith("  but not on this machine: far: /nope: no such folder")
    written(tmp_path, api_keys_file=str(keys))
    assert config.main() == 0
    reason = f"generation: api_keys_file {keys}: No such file or directory."
    assert capsys.readouterr().out.splitlines()[1:] == [f"  but not on this machine: {reason}"]
