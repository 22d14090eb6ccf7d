"""LlamaIndex's image tool with its own defaults: model names and sizes are fixed. OPENAI_BASE_URL is the base URL."""

import os
import sys
from urllib.request import urlopen

from llama_index.tools.openai.image_generation.base import OpenAIImageGenerationToolSpec

address, path = sys.argv[1:]
os.environ["OPENAI_BASE_URL"] = f"{address}/v1"
url = OpenAIImageGenerationToolSpec(api_key="unused").image_generation("a red circle on a blue background")
with urlopen(url) as answer, open(path, "wb") as file:
    file.write(answer.read())
