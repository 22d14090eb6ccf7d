"""Official clients, unmodified, and the middleware of Serve's proxy, against the really served app."""

import base64
import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import gradio_client
import gradio_client.exceptions
import httpx
import numpy as np
import openai
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image

from tests.cluster import halted

PROMPT = "a red circle on a blue background"
API_MD = Path(__file__).parents[2] / "docs/api.md"
QUICK = {"num_inference_steps": 2}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", API_MD.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks("bash"), ids=range(len(blocks("bash"))))
def test_every_curl_of_the_documentation_works(service, block, tmp_path):
    script = "set -euo pipefail\n" + block.replace("http://127.0.0.1:8000", service.address)
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    for picture in tmp_path.glob("*.png"):
        assert Image.open(picture).size == (128, 128)


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_every_python_of_the_documentation_works(service, block, tmp_path):
    code = block.replace("http://127.0.0.1:8000", service.address)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("javascript"), ids=range(len(blocks("javascript"))))
def test_every_javascript_of_the_documentation_works(service, block, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no node here (Debian: apt-get install nodejs)")
    (tmp_path / "example.mjs").write_text(block.replace("http://127.0.0.1:8000", service.address))
    done = subprocess.run([node, "example.mjs"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "/v1/files/job_" in done.stdout


# -- OpenAI


def test_openais_client_raises_its_own_errors(service):
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="unused", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt=PROMPT, size="100x100")
    assert caught.value.param == "size"
    assert caught.value.code == "invalid_value"
    assert caught.value.request_id
    with pytest.raises(openai.NotFoundError):
        client.images.generate(prompt=PROMPT, model="dall-e-3")
    with pytest.raises(openai.APIError, match="time was over"):
        list(client.images.generate(prompt=PROMPT, stream=True, extra_body={"deadline_s": 0.001}))


def test_openais_client_lists_models(service):
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="unused", max_retries=0)
    assert [model.id for model in client.models.list()] == ["shapes"]
    assert client.models.retrieve("shapes").model_extra["capabilities"]["max_tokens"] == 75


def test_openais_client_repeats_a_call_without_a_second_picture(service):
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="unused", max_retries=2, timeout=0.2)
    headers = {"Idempotency-Key": "repeated"}
    with halted(*service.replicas("Denoiser")), pytest.raises(openai.APITimeoutError):  # three times
        client.images.generate(prompt=PROMPT, extra_body={"num_inference_steps": 60}, extra_headers=headers)
    answer = client.with_options(timeout=60).images.generate(
        prompt=PROMPT, extra_body={"num_inference_steps": 60}, extra_headers=headers
    )
    assert answer.data
    _, jobs = service.get("/v1/jobs?limit=100")
    drawn = [job for job in jobs["data"] if job["specs"][0]["num_inference_steps"] == 60]
    assert len({image["seed"] for job in drawn for image in job["images"]} & {answer.data[0].model_extra["seed"]}) == 1


async def test_openais_asynchronous_client_gets_a_picture_and_a_stream(service):
    async with openai.AsyncOpenAI(base_url=f"{service.address}/v1", api_key="unused", max_retries=0) as client:
        answer = await client.images.generate(prompt=PROMPT, output_format="webp", extra_body=QUICK)
        assert Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).format == "WEBP"
        stream = await client.images.generate(prompt=PROMPT, stream=True, extra_body=QUICK)
        assert [event.type async for event in stream][-1] == "image_generation.completed"


def png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def test_openais_client_edits_an_image_whole_with_a_mask_and_as_a_stream_and_varies_it(service):
    client = openai.OpenAI(base_url=f"{service.address}/v1", api_key="unused", max_retries=0)
    blue = Image.new("RGB", (128, 128), (20, 40, 200))
    image, mask = png(blue), Image.new("RGBA", (128, 128), "white")
    mask.paste((0, 0, 0, 0), (0, 0, 64, 128))

    def first(answer):
        return np.array(Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json))).convert("RGB")).astype(int)

    whole = first(client.images.edit(image=image, prompt=PROMPT, size="128x128", extra_body={"seed": 7}))
    masked = first(client.images.edit(image=image, mask=png(mask), prompt=PROMPT, extra_body={"seed": 7}))
    kept = np.abs(masked[:, 80:] - np.array(blue)[:, 80:])
    assert whole.shape == masked.shape == (128, 128, 3)
    assert kept.max() <= 2, "what the mask keeps has changed"
    assert not np.array_equal(whole, masked)
    stream = client.images.edit(image=[image], mask=png(mask), prompt=PROMPT, stream=True, partial_images=1)
    assert [event.type for event in stream][-1] == "image_edit.completed"
    varied = client.images.create_variation(image=image, n=2, response_format="url")
    assert [httpx.get(each.url).status_code for each in varied.data] == [200, 200]
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(image=[image, image], prompt=PROMPT)
    assert caught.value.param == "image"
    with pytest.raises(openai.BadRequestError, match="hires must be left out for images of 128x128"):
        client.images.edit(image=image, prompt=PROMPT, extra_body={"hires": {"scale": 1.5, "steps": 4}})


# -- Hugging Face


def test_hugging_faces_client_gets_the_same_picture_as_openais(service):
    hf = InferenceClient(model=f"{service.address}/v1/hf/models/shapes")
    ours = openai.OpenAI(base_url=f"{service.address}/v1", api_key="unused").images.generate(
        prompt=PROMPT, extra_body={"seed": 7, "num_inference_steps": 4}
    )
    same = Image.open(io.BytesIO(base64.b64decode(ours.data[0].b64_json)))
    picture = hf.text_to_image(PROMPT, seed=7, num_inference_steps=4)
    assert picture.tobytes() == same.tobytes()
    assert hf.text_to_image(PROMPT, seed=8, num_inference_steps=4).tobytes() != same.tobytes()


def test_hugging_faces_client_makes_an_image_from_an_image(service):
    hf = InferenceClient(model=f"{service.address}/v1/hf/models/shapes")
    image = png(Image.new("RGB", (128, 128), (20, 40, 200)))
    size = {"width": 128, "height": 128}
    changed = hf.image_to_image(image, prompt=PROMPT, strength=0.5, target_size=size, seed=7, num_inference_steps=8)
    again = hf.image_to_image(image, prompt=PROMPT, strength=0.5, target_size=size, seed=7, num_inference_steps=8)
    other = hf.image_to_image(image, prompt=PROMPT, strength=0.9, target_size=size, seed=7, num_inference_steps=8)
    assert changed.size == hf.image_to_image(image).size == (128, 128)  # without parameters the image is the body
    assert changed.tobytes() != other.tobytes()
    assert np.abs(np.array(changed).astype(int) - np.array(again)).max() <= 1


def test_hugging_faces_client_raises_its_own_errors(service):
    with pytest.raises(HfHubHTTPError, match="width must be 128"):
        InferenceClient(model=f"{service.address}/v1/hf/models/shapes").text_to_image(PROMPT, width=64)
    with pytest.raises(HfHubHTTPError) as caught:
        InferenceClient(model=f"{service.address}/v1/hf/models/magic").text_to_image(PROMPT)
    assert caught.value.response.status_code == 404
    url = f"{service.address}/v1/hf/models/shapes"
    assert InferenceClient(provider="hf-inference").health_check(url)


# -- Gradio


def test_gradios_client_gets_the_picture_that_the_api_gives(service, tmp_path):
    service.rest()  # images of another test would share forwards
    client = gradio_client.Client(service.address, verbose=False, download_files=str(tmp_path))
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/generate"]
    files, seed, about = client.predict(prompt=PROMPT, seed=7, num_inference_steps=4, api_name="/generate")
    _, same = service.post("/v1/images/generations", {"prompt": PROMPT, "seed": 7, "num_inference_steps": 4})
    assert Path(files[0]).read_bytes() == base64.b64decode(same["data"][0]["b64_json"])
    assert seed == 7
    assert about["warnings"] == []


def test_gradios_client_sees_its_place_in_the_clusters_line_and_then_steps(service, tmp_path):
    client = gradio_client.Client(service.address, verbose=False, download_files=str(tmp_path))
    crowd = {"prompt": PROMPT, "num_images": 10, "num_inference_steps": 60}  # its first pictures end together
    others = [service.post("/v1/jobs", crowd)[1]["id"] for _ in range(4)]
    # How many pictures there is room for is measured: what is drawn longer than a few steps has filled all of it.
    service.wait(lambda: (service.get(f"/v1/jobs/{others[0]}")[1]["progress"] or {}).get("step", 0) > 5)
    job = client.submit(prompt=PROMPT, num_inference_steps=100, api_name="/generate")
    place = next(status for status in statuses(job) if status.queue_size)
    for other in others:
        service.post(f"/v1/jobs/{other}/cancel", {})
    [unit] = next(status.progress_data for status in statuses(job) if status.progress_data)
    assert job.result(timeout=120)
    assert place.code.name == "IN_QUEUE"
    assert place.eta > 0
    assert (unit.length, unit.unit) == (100, "steps")


def statuses(job):
    """What the client knows of its job from moment to moment, until it is done."""
    while not job.done():
        yield job.status()
        time.sleep(0.05)


def test_gradios_client_gets_a_sentence_about_what_is_wrong(service):
    client = gradio_client.Client(service.address, verbose=False)
    with pytest.raises(gradio_client.exceptions.AppError, match="width must be 128"):
        client.predict(prompt=PROMPT, width=64, api_name="/generate")


# -- the proxy's middleware


def ask(service, path, headers=None, data=None):
    answer = httpx.request("POST" if data else "GET", service.address + path, headers=headers, content=data, timeout=60)
    return answer.status_code, answer.headers, answer.content


def test_every_answer_has_one_request_id_which_may_be_the_callers(service):
    for path in ("/v1/health", "/v1/nothing", "/v1/jobs/job_0", "/v1/openapi.json", "/"):
        _, headers, _ = ask(service, path, {"X-Request-ID": "mine-1"})
        assert headers.get_list("x-request-id") == ["mine-1"]
        _, headers, _ = ask(service, path, {"X-Request-ID": "not mine at all"})
        [given] = headers.get_list("x-request-id")
        assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_a_client_cannot_set_serves_own_timeout(service):
    """Obeyed, it would end the request after a millisecond."""
    body = json.dumps({"prompt": PROMPT, **QUICK}).encode()
    headers = {"Content-Type": "application/json", "X-Request-Timeout-Seconds": "0.001"}
    status, _, answer = ask(service, "/v1/images/generations", headers, body)
    assert (status, len(json.loads(answer)["data"])) == (200, 1)


@pytest.mark.nightly  # half a minute
def test_a_body_that_stops_halfway_holds_up_nobody(service):
    with socket.create_connection(service.address.removeprefix("http://").split(":"), timeout=60) as half:
        half.sendall(
            b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
        assert service.get("/v1/health")[0] == 200
        answer = half.recv(65536)
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"request_timeout" in answer + half.recv(65536)


def test_prompts_never_reach_a_log(service):
    canary = "xyzzy-canary-plugh"
    for body in ({"prompt": canary, **QUICK}, {"prompt": canary, "seed": -2}, {"prompt": canary, "deadline_s": 0.001}):
        service.post("/v1/jobs", body)
        service.post("/v1/images/generations", body)
    ask(service, "/v1/hf/models/shapes", {"Content-Type": "application/json"}, json.dumps({"inputs": canary}).encode())
    service.post("/v1/tokenize", {"prompt": canary})
    logs = [path for path in service.logs().rglob("*") if path.is_file()]
    assert len(logs) > 5
    assert not [path for path in logs if canary.encode() in path.read_bytes()]
