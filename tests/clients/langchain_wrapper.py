"""LangChain's DALL-E wrapper of langchain-community: it can read nothing but an address."""

import sys
from urllib.request import urlopen

from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

address, path = sys.argv[1:]
wrapper = DallEAPIWrapper(base_url=f"{address}/v1", api_key="unused", model="dall-e-3", size="1024x1024")
with urlopen(wrapper.run("a red circle on a blue background")) as answer, open(path, "wb") as file:
    file.write(answer.read())
