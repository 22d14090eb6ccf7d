"""Clients that offer HTTP/2 with each request over plain HTTP: what they send must arrive whole."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

JAVA = Path(__file__).with_name("Generate.java")
BODY = json.dumps({"prompt": "a red circle", "num_inference_steps": 2})


def ran(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_that_offers_http_2_gets_an_image(service):
    curl = shutil.which("curl")
    if curl is None or "HTTP2" not in ran(curl, "--version"):
        pytest.skip("there is no curl with HTTP/2 here (Debian: apt-get install curl)")
    address = f"{service.address}/v1/images/generations"
    said = ran(
        curl, "-s", "--http2", "-v", "--stderr", "-", address, "-H", "Content-Type: application/json", "-d", BODY
    )
    assert "> Upgrade: h2c" in said
    assert "< HTTP/1.1 200" in said
    assert '"b64_json":"' in said


def test_the_jdks_client_as_it_is_gets_an_image(service):
    java = shutil.which("java")
    if java is None:
        pytest.skip("there is no java here (Debian: apt-get install default-jre-headless)")
    status, answer = ran(java, str(JAVA), f"{service.address}/v1/images/generations", BODY).splitlines()
    assert (status, len(json.loads(answer)["data"])) == ("200", 1)
