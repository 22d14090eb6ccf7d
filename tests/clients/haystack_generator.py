"""Haystack's OpenAIImageGenerator."""

import base64
import sys

from haystack.components.generators import OpenAIImageGenerator
from haystack.utils import Secret

address, path = sys.argv[1:]
generator = OpenAIImageGenerator(
    model="shapes",
    size="128x128",
    response_format="b64_json",
    api_key=Secret.from_token("unused"),
    api_base_url=f"{address}/v1",
)
with open(path, "wb") as file:
    file.write(base64.b64decode(generator.run(prompt="a red circle on a blue background")["images"][0]))
