"""LiteLLM's SDK, by its provider `openai`; fields of Darkroom's own pass through."""

import base64
import sys

import litellm

address, path = sys.argv[1:]
answer = litellm.image_generation(
    prompt="a red circle on a blue background",
    model="openai/shapes",
    size="128x128",
    api_base=f"{address}/v1",
    api_key="unused",
    seed=7,
)
with open(path, "wb") as file:
    file.write(base64.b64decode(answer.data[0].b64_json))

with open(path, "rb") as image:
    edited = litellm.image_edit(
        image=image,
        prompt="a blue square on a green background",
        model="openai/shapes",
        api_base=f"{address}/v1",
        api_key="unused",
        strength=0.5,
    )
assert edited.data[0].b64_json
