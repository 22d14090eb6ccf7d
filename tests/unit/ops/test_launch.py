"""What the launcher checks before it starts anything, and what it says."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from deployments.config import AppConfig
from ops import cluster, config, launch, status
from ops import reload as reload_module
from ops.cluster import StartError
from ops.config import ROOT

CONFIG = Path("/srv/dark room/serve_config.yaml")


def written(tmp_path: Path, **args: object) -> Path:
    """Return a config file whose application `generation` has `args`."""
    app = {"name": "generation", "route_prefix": "/v1", "import_path": "deployments.app:build", "args": args}
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump({"http_options": {"host": "127.0.0.1", "port": 8000}, "applications": [app]}))
    return path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_model_folder_is_taken_from_where_the_command_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    assert launch.parse_args(["--model", "weights"]).model == str(tmp_path / "weights")


@pytest.mark.parametrize("name", ["my model", "it's", 'so "said"', "me@work", "$HOME #1 `x` 50%\\n"])
def test_make_hands_on_a_model_whatever_its_path_holds(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    words = ["make", "--dry-run", "serve", f"MODEL={folder}", "SET=guidance_scale=0 negative_prompt='a b'"]
    printed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    [command] = [line for line in printed.splitlines() if "ops.launch" in line]  # beside it make may name its folder
    given = shlex.split(command)
    args = launch.parse_args(given[given.index("ops.launch") + 1 :])
    assert args.model == str(folder)
    assert config.read_set(args.set) == {"guidance_scale": "0", "negative_prompt": "a b"}


def test_defaults_that_the_model_does_not_allow_keep_it_from_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "run", lambda *_: pytest.fail("started"))
    config_file = str(ROOT / "serve_config.yaml")
    assert launch.main([config_file, "--set", "width=256 height=64"]) == 1
    remedy = "Change it or leave it out."
    said = (
        "Darkroom cannot serve.\n"
        f"SET: width must be 128 for shapes, got 256. {remedy}\n"
        f"SET: height must be 128 for shapes, got 64. {remedy}\n"
    )
    assert capsys.readouterr().err == said


def test_ray_is_given_cpus_for_every_replica_that_may_run(tmp_path: Path) -> None:
    path = written(tmp_path)
    config = yaml.safe_load(path.read_text())
    config["applications"][0]["deployments"] = [
        {"name": "A", "ray_actor_options": {"num_cpus": 0.1}},
        {"name": "B", "num_replicas": 3, "ray_actor_options": {"num_cpus": 0.5}},
        {"name": "C", "autoscaling_config": {"min_replicas": 1, "max_replicas": 4}},
    ]
    schema = ServeDeploySchema.model_validate(config)
    assert cluster.cpus_wanted(schema) == 6  # 0.1 + 1.5 + 4


def test_the_lock_names_its_holder(tmp_path: Path) -> None:
    with launch.hold(tmp_path / "state", "http://127.0.0.1:8000", CONFIG):
        assert status.read_holder(tmp_path / "state") == status.Holder(
            os.getpid(), "http://127.0.0.1:8000", str(CONFIG)
        )
        with (
            pytest.raises(StartError, match=rf"Process {os.getpid()}, serving http://127.0.0.1:8000"),
            launch.hold(tmp_path / "state", "http://127.0.0.1:8001", CONFIG),
        ):
            pass


def test_a_lock_given_back_names_nobody_and_can_be_taken_again(tmp_path: Path) -> None:
    for port in (8000, 8001):
        with launch.hold(tmp_path, f"http://127.0.0.1:{port}", CONFIG):
            assert status.read_holder(tmp_path) == status.Holder(os.getpid(), f"http://127.0.0.1:{port}", str(CONFIG))
        assert status.read_holder(tmp_path) is None


def test_the_lock_of_a_killed_process_can_be_taken(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"1 http://127.0.0.1:1 {CONFIG}\n")
    assert status.read_holder(tmp_path) is None  # process 1 may be anybody by now
    with launch.hold(tmp_path, "http://127.0.0.1:8000", CONFIG):
        assert status.read_holder(tmp_path) == status.Holder(os.getpid(), "http://127.0.0.1:8000", str(CONFIG))


def test_a_state_dir_that_cannot_be_made_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(StartError, match="state_dir cannot be used"),
        launch.hold(tmp_path / "file" / "state", "x", CONFIG),
    ):
        pass


@pytest.mark.parametrize("taken_on", ["127.0.0.1", "0.0.0.0"])
def test_a_port_that_another_listens_on_is_refused_with_its_process(taken_on: str) -> None:
    with socket.socket() as taken:
        # As Serve does it: the system would let a second Serve share the port, and split the requests.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind((taken_on, 0))
        taken.listen()
        said = "Address already in use" + (f" by process {os.getpid()}" if sys.platform == "linux" else "")
        with pytest.raises(StartError, match=said):
            launch.check_address("127.0.0.1", taken.getsockname()[1])


def test_a_free_loopback_port_is_accepted() -> None:
    launch.check_address("127.0.0.1", free_port())
    launch.check_address("localhost", free_port())


def serving(tmp_path: Path, **checkpoints: str) -> config.Config:
    """A config that serves these models."""
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    [model] = [app for app in content["applications"] if app["import_path"] == config.MODEL_APP]
    generation = config.application(content, "generation")
    generation["args"] |= {"models": list(checkpoints)}
    models = [model | {"name": name, "args": {"checkpoint": where}} for name, where in checkpoints.items()]
    content["applications"] = [app for app in content["applications"] if app is not model] + models
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(content))
    return config.read(path)


def test_checkpoints_of_which_none_can_be_served_are_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = {"empty": str(tmp_path / "empty"), "mistyped": "models/checkpoints/shape"}
    with pytest.raises(config.UnusableConfig) as told:
        config.check_files(serving(tmp_path, **broken))
    empty, mistyped = str(told.value).splitlines()
    assert empty == f"empty: {tmp_path / 'empty' / 'model_index.json'}: missing."
    assert mistyped.startswith("mistyped: models/checkpoints/shape: no such folder")


@pytest.mark.parametrize("other", ["models/checkpoints/shapes", f"owner/name@{'0' * 40}"])
def test_a_model_that_cannot_be_served_is_told_and_keeps_no_other_from_it(tmp_path: Path, other: str) -> None:
    served = serving(tmp_path, mistyped="models/checkpoints/shape", other=other)
    [reason] = config.check_files(served)
    assert reason.startswith("mistyped: models/checkpoints/shape: no such folder")


def with_keys(tmp_path: Path, app: str, file: Path) -> Path:
    """A config file one application of which names a file of keys."""
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    given = config.application(content, app)
    given["args"] = config.args_of(given) | {"api_keys_file": str(file)}
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("app", ["generation", "ui"])
def test_a_file_of_keys_that_cannot_be_used_is_told_in_words_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], app: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # which it leaves
    monkeypatch.setattr(launch, "run", lambda *_: pytest.fail("it starts"))
    keys = tmp_path / "keys.json"
    path = with_keys(tmp_path, app, keys)
    assert launch.main([str(path), "--port", str(free_port())]) == 1
    assert capsys.readouterr().err == (
        f"Darkroom cannot serve.\n{app}: api_keys_file {keys}: No such file or directory.\n"
    )
    keys.write_text("garbage")
    assert launch.main([str(path), "--port", str(free_port())]) == 1
    assert f"{app}: api_keys_file {keys}: is no list of keys" in capsys.readouterr().err


def without_index(checkpoint: Path) -> None:
    (checkpoint / "model_index.json").unlink()


def with_cut_weights(checkpoint: Path) -> None:
    weights = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(without_index, "model_index.json: missing", id="no index"),
        pytest.param(with_cut_weights, "diffusion_pytorch_model.safetensors: not a safetensors file", id="cut"),
    ],
)
def test_a_broken_checkpoint_exits_1_with_its_reason_before_anything_starts(
    tiny_sd: Path, tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    broken = shutil.copytree(tiny_sd, tmp_path / "broken")
    spoil(broken)
    done = subprocess.run(
        [sys.executable, "-m", "ops.launch", "--port", str(free_port()), "--model", str(broken)],
        cwd=ROOT,
        env=os.environ | {"XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_fails_in_the_cluster_ends_ray_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    failed = {"status": "DEPLOY_FAILED", "message": TRACEBACK, "deployments": {}}
    monkeypatch.setattr(cluster, "start", lambda config, stop: None)
    monkeypatch.setattr(cluster, "applications", lambda client: {"shapes": failed})
    monkeypatch.setattr(cluster, "end_ray", lambda guard: ended.append(True))
    served = serving(tmp_path, shapes="models/checkpoints/shapes")
    with pytest.raises(StartError, match=r"shapes: unet/config\.json is missing$"):
        cluster.run(served, lambda: served, "http://127.0.0.1:1", cluster.Stop())
    assert ended == [True]


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_that_is_none_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], port: int
) -> None:
    monkeypatch.chdir(tmp_path)  # which it leaves
    monkeypatch.setattr(launch, "run", lambda *_: pytest.fail("it starts"))
    assert launch.main([str(ROOT / "serve_config.yaml"), f"--port={port}"]) == 1
    assert f"http_options.port must be from 1 to 65535, got {port}." in capsys.readouterr().err


TRACEBACK = """The deployment failed to start 3 times in a row. See controller logs for details. Error:
\x1b[36mray::ServeReplica:generation:Denoiser.initialize_and_get_metadata()\x1b[39m (pid=1)
  File "ray/serve/_private/replica.py", line 1928, in initialize
    raise RuntimeError(traceback.format_exc()) from None
RuntimeError: Traceback (most recent call last):
  File "deployments/stages/denoiser.py", line 17, in __init__
    self._model = load_unet(checkpoint)
                  ^^^^^^^^^^^^^^^^^^^^^
models.errors.UnusableCheckpoint: unet/config.json is missing"""


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (TRACEBACK, "unet/config.json is missing"),
        (f"{TRACEBACK}\nsecond line", "unet/config.json is missing\nsecond line"),
        (
            TRACEBACK.replace("models.errors.UnusableCheckpoint", "torch.cuda.OutOfMemoryError"),
            "OutOfMemoryError: unet/config.json is missing",
        ),
        ("Waiting for 2 CPUs.", "Waiting for 2 CPUs."),
        ("", ""),
    ],
)
def test_a_failure_is_reduced_to_its_reason(message: str, said: str) -> None:
    assert status.reason(message) == said


def test_the_status_table_shows_replicas_and_queue() -> None:
    deployments = {"Denoiser": {"status": "UPSCALING", "running": 1, "wanted": 2}}
    ready = {"ready": True, "applications": {"generation": {"status": "RUNNING", "deployments": deployments}}}
    shown = status.table(ready, {"waiting": 3, "running": 1, "eta_s": 12.4})
    assert "Denoiser" in shown
    assert "1/2  UPSCALING" in shown
    assert "3 waiting, 1 running, the line is done in 12 s" in shown


def test_the_status_table_says_why_an_application_failed() -> None:
    apps = {"sdxl": {"status": "DEPLOY_FAILED", "message": TRACEBACK, "deployments": {}}}
    shown = status.table({"applications": apps}, {"waiting": 0, "running": 0, "eta_s": 0})
    assert "DEPLOY_FAILED: unet/config.json is missing" in shown


def test_status_says_when_nothing_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["status", str(written(tmp_path, state_dir=str(tmp_path / "state")))])
    assert status.main() == 1
    assert "not running" in capsys.readouterr().err


def test_status_says_when_the_holder_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["status", str(written(tmp_path, state_dir=str(tmp_path)))])
    state_path = AppConfig.model_validate({"state_dir": tmp_path}).state_path
    with launch.hold(state_path, f"http://127.0.0.1:{free_port()}", CONFIG):
        assert status.main() == 1
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_status_says_where_a_key_is_taken_from_when_one_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None]] = []

    def get(url: str, key: str | None = None) -> tuple[int, bytes]:
        asked.append((url, key))
        if key is None:
            return 401, b"{}"
        return 200, b'{"waiting": 0, "running": 0, "eta_s": 0, "applications": {}}'

    monkeypatch.setattr(status, "get", get)
    holder = status.Holder(1, "http://127.0.0.1:1", str(CONFIG))
    with pytest.raises(ValueError, match="DARKROOM_API_KEY"):
        status.report(holder)
    assert "0 waiting" in status.report(holder, "dk_x")
    assert {key for _, key in asked} == {None, "dk_x"}


def test_reload_signals_the_holder_and_only_with_its_own_config_that_can_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signals: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    content = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    path = tmp_path / "serve.yaml"

    def reload(max_waiting: int) -> int:
        args = {"state_dir": str(tmp_path / "state"), "queue": {"max_waiting": max_waiting}}
        content["applications"][0]["args"] |= args
        path.write_text(yaml.safe_dump(content))
        monkeypatch.setattr("sys.argv", ["reload", str(path)])
        return reload_module.main()

    assert reload(5) == 1
    assert "not running" in capsys.readouterr().err
    with launch.hold(tmp_path / "state", "http://127.0.0.1:1", CONFIG):
        assert reload(5) == 1
        assert f"serves {CONFIG}, and reads that again, not {path}" in capsys.readouterr().err
    with launch.hold(tmp_path / "state", "http://127.0.0.1:1", path):
        assert reload(0) == 1
        assert "generation.queue.max_waiting must be 1 or more, got 0." in capsys.readouterr().err
        assert signals == []
        assert reload(5) == 0
    assert signals == [(os.getpid(), signal.SIGHUP)]


class Deployed:
    """A client of Serve's controller that notes what is deployed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.configs: list[ServeDeploySchema] = []
        monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 99.0})

    def deploy_apps(self, serve: ServeDeploySchema) -> None:
        self.configs.append(serve)


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> Deployed:
    return Deployed(monkeypatch)


def test_a_config_that_became_unusable_changes_nothing_that_runs(
    deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    def read() -> config.Config:
        raise config.UnusableConfig("serve.yaml cannot be used: words")

    cluster.deploy_again(deployed, None, read)
    assert deployed.configs == []
    assert "Nothing was changed.\nserve.yaml cannot be used" in capsys.readouterr().err


def test_a_reload_with_nothing_but_broken_checkpoints_changes_nothing_and_says_why(
    tmp_path: Path, deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    running = serving(tmp_path, shapes="models/checkpoints/shapes")
    cluster.deploy_again(deployed, running, lambda: serving(tmp_path, shapes="models/checkpoints/shape"))
    assert deployed.configs == []
    said = capsys.readouterr()
    assert said.err.startswith("Nothing was changed.\nshapes: models/checkpoints/shape: no such folder")
    assert said.out == ""


def test_a_reload_deploys_what_can_be_served_and_tells_of_a_broken_model(
    tmp_path: Path, deployed: Deployed, capsys: pytest.CaptureFixture[str]
) -> None:
    running = serving(tmp_path, shapes="models/checkpoints/shapes")
    wanted = serving(tmp_path, shapes="models/checkpoints/shapes", draft="models/checkpoints/shape")
    cluster.deploy_again(deployed, running, lambda: wanted)
    assert deployed.configs == [wanted.serve]
    said = capsys.readouterr()
    assert said.err == ""
    assert "Deployed again" in said.out
    assert "  NOT SERVED  draft: models/checkpoints/shape: no such folder" in said.out


@pytest.mark.parametrize("app", ["generation", "ui"])
def test_a_reload_with_a_file_of_keys_that_cannot_be_used_changes_nothing_and_says_why(
    tmp_path: Path, deployed: Deployed, capsys: pytest.CaptureFixture[str], app: str
) -> None:
    running = config.read(ROOT / "serve_config.yaml")
    wanted = config.read(with_keys(tmp_path, app, tmp_path / "keys.json"))
    cluster.deploy_again(deployed, running, lambda: wanted)
    assert deployed.configs == []
    reason = f"{app}: api_keys_file {tmp_path / 'keys.json'}: No such file or directory."
    assert capsys.readouterr().err == f"Nothing was changed.\n{reason}\n"


def a_config(path: Path, **content: object) -> config.Config:
    """A config with one application alone, which `read` would refuse."""
    content = yaml.safe_load(path.read_text()) | content
    return config.Config(ServeDeploySchema.model_validate(content), config.generation_of(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"http_options": {"host": "127.0.0.1", "port": 8001}}, "http_options: a change takes a restart."),
        ({"proxy_location": "HeadOnly"}, "proxy_location: a change takes a restart."),
        ({"tracing_config": {"enabled": True}}, "tracing_config: a change takes a restart."),
        ({}, "The replicas reserve up to 3 CPUs (num_cpus), and Ray has 2: a restart gives it more"),
    ],
)
def test_what_takes_a_restart_is_no_reload(tmp_path: Path, change: dict[str, object], said: str) -> None:
    path = written(tmp_path)
    running = a_config(path)
    content = yaml.safe_load(path.read_text())
    content["applications"][0]["deployments"] = [
        {"name": "A", "num_replicas": 3, "ray_actor_options": {"num_cpus": 0.7}}
    ]
    path.write_text(yaml.safe_dump(content))
    wanted = a_config(path, **change)
    with pytest.raises(config.UnusableConfig) as told:
        cluster.check_change(running, wanted, cpus=2)
    assert str(told.value).startswith(said)
    cluster.check_change(wanted, wanted, cpus=3)


@pytest.mark.parametrize("key", ["state_dir", "database_url"])
def test_another_place_for_the_state_takes_a_restart(tmp_path: Path, key: str) -> None:
    state = tmp_path / "state"
    running = a_config(written(tmp_path, state_dir=str(state)))
    same = a_config(written(tmp_path, state_dir=str(state), database_url=f"sqlite:///{state / 'jobs.sqlite'}"))
    cluster.check_change(running, same, cpus=9)  # the default, in words
    other = {"state_dir": str(tmp_path / "other"), "database_url": "sqlite:////srv/jobs.sqlite"}[key]
    wanted = a_config(written(tmp_path, **{"state_dir": str(state), key: other}))
    with pytest.raises(config.UnusableConfig, match=f"^generation.{key}: a change takes a restart"):
        cluster.check_change(running, wanted, cpus=9)


def test_from_one_config_of_the_checkout_to_another_no_restart_is_needed() -> None:
    running = config.read(ROOT / "serve_config.yaml")
    cluster.check_change(running, config.read(ROOT / "ops/configs/two-models.yaml"), cpus=99)


def test_rays_token_is_made_for_this_account_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cluster.keep_token()
    path = tmp_path / ".ray/auth_token"
    token = path.read_text()
    assert (len(token), path.stat().st_mode & 0o777) == (64, 0o600)
    path.chmod(0o644)  # as Ray itself writes it
    cluster.keep_token()
    assert (path.read_text(), path.stat().st_mode & 0o777) == (token, 0o600)


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_of_the_operators_own_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "given")
    cluster.keep_token()
    assert list(tmp_path.iterdir()) == []
