"""Clients that other projects wrote, in the versions of `tests/clients`: each script gets an image through one of them.

openai-python, huggingface_hub and gradio_client, which need no packages of their own, are in `test_clients.py`.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from ops.config import ROOT, application
from tests.cluster import Cluster, configured

CLIENTS = ROOT / "tests/clients"
INSTALLED = ROOT / "build/clients"
SCRIPTS = sorted(path for path in CLIENTS.iterdir() if path.suffix in (".py", ".mjs"))
REQUIREMENTS = (CLIENTS / "requirements.txt", CLIENTS / "requirements-alone.txt")
IMPORTED_BY_OPEN_WEBUI = ("aiofiles", "fastapi", "python-multipart", "sqlalchemy")
ALIASES = {"dall-e-2": "shapes", "dall-e-3": "shapes"}  # what LlamaIndex and Open WebUI send, whatever is set


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The service, with what an operator sets for clients whose model names and sizes are fixed."""
    config = configured()
    application(config, "generation")["args"] |= {"aliases": ALIASES, "sizes": "nearest"}
    cluster = Cluster(tmp_path_factory.mktemp("clients"), config)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def python() -> Path:
    """The interpreter of an environment with the Python clients, kept from one run to the next."""
    folder = INSTALLED / "python"
    pip = (folder / "bin/python", "-m", "pip", "-q", "--disable-pip-version-check", "install")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    together, alone = REQUIREMENTS
    subprocess.run([*pip, "-r", together], check=True)
    subprocess.run([*pip, "--no-deps", "-r", alone], check=True)
    return folder / "bin/python"


@pytest.fixture(scope="module")
def node() -> Path:
    """Node, and beside it the JavaScript clients, in the versions of the lock file."""
    folder = INSTALLED / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (CLIENTS / "package.json", CLIENTS / "package-lock.json", *CLIENTS.glob("*.mjs")):
        (folder / path.name).write_bytes(path.read_bytes())
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder / "node_modules/.bin/node"


@pytest.mark.nightly  # installs 800 MiB
@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_an_unmodified_client_gets_an_image(
    service: Cluster, request: pytest.FixtureRequest, script: Path, tmp_path: Path
) -> None:
    runner: Path = request.getfixturevalue("python" if script.suffix == ".py" else "node")
    where = script if script.suffix == ".py" else INSTALLED / "node" / script.name
    image = tmp_path / "image"
    done = subprocess.run([runner, where, service.address, image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with Image.open(image) as found:
        assert found.size == (128, 128)
        assert len(found.convert("RGB").getcolors(128 * 128)) > 10, "it shows nothing"


def test_the_documentation_names_each_client_in_the_version_that_is_tried() -> None:
    text = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`([@\w/-]+)` (\d[\d.]*)", text))
    ours = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = [(name, ours[name]) for name in ("openai", "gradio_client", "huggingface_hub")]
    for line in re.findall(r"^\S+==\S+$", "".join(path.read_text() for path in REQUIREMENTS), re.MULTILINE):
        name, _, version = line.partition("==")
        pinned += [(name, version)] if name not in IMPORTED_BY_OPEN_WEBUI else []
    npm = json.loads((CLIENTS / "package.json").read_text())["dependencies"]
    pinned += [(name, version) for name, version in npm.items() if name not in ("node", "@langchain/core")]
    assert len(pinned) > 12
    assert set(pinned) <= told
