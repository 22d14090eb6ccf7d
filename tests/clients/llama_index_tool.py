"""LlamaIndex's image tool: its model names and sizes are fixed. The base URL is in OPENAI_BASE_URL."""

import os
import shutil
import sys
import tempfile

address, path = sys.argv[1:]
os.environ["OPENAI_BASE_URL"] = f"{address}/v1"

from llama_index.tools.openai.image_generation import OpenAIImageGenerationToolSpec  # noqa: E402

with tempfile.TemporaryDirectory() as folder:
    tool = OpenAIImageGenerationToolSpec(api_key="unused", save_dir=folder)
    shutil.copy(tool.image_generation("a red circle on a blue background", model="dall-e-3", size="1024x1024"), path)
