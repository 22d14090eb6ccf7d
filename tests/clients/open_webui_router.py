"""Open WebUI's own router of images with its engine `openai`, all else of Open WebUI replaced by mocks.

Its defaults: model `dall-e-2` where none is set, size 512x512.
"""

import ast
import asyncio
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock, MagicMock

import aiohttp


async def keep(request: object, file: object, **_: object) -> SimpleNamespace:
    """Write the image to the path that was given, in place of Open WebUI's own store."""
    Path(path).write_bytes(await file.read())
    return SimpleNamespace(id="1", meta=None, filename="image.png")


async def generate() -> None:
    """Generate an image through the route's own function."""
    async with aiohttp.ClientSession() as session:
        neighbour("utils.session_pool").get_session = AsyncMock(return_value=session)
        router = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(router)
        settings = dict.fromkeys(router.IMAGE_CONFIG_KEYS.values()) | {
            "image_generation.engine": "openai",
            "image_generation.model": "",
            "image_generation.size": "512x512",
            "image_generation.openai.api_base_url": f"{address}/v1",
            "image_generation.openai.api_key": "unused",
        }
        assert settings.keys() == set(router.IMAGE_CONFIG_KEYS.values()), "a setting has another name"
        neighbour("models.config").Config.get_many = AsyncMock(return_value=settings)
        await router.image_generations(
            MagicMock(), router.CreateImageForm(prompt="a red circle on a blue background"), user=MagicMock()
        )


def neighbour(name: str) -> MagicMock:
    """Return the mock of one of Open WebUI's modules."""
    return sys.modules[f"open_webui.{name}"]


address, path = sys.argv[1:]
package = Path(next(p for p in sys.path if (Path(p) / "open_webui").is_dir())) / "open_webui"
file = package / "routers/images.py"
for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
    if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("open_webui"):
        parts = node.module.split(".")
        for k in range(len(parts)):
            sys.modules.setdefault(".".join(parts[: k + 1]), MagicMock(__path__=[]))
neighbour("config").CACHE_DIR = Path(tempfile.mkdtemp())
neighbour("config").IMAGE_URL_RESPONSE_MODELS_REGEX_PATTERN = "^gpt-image"
neighbour("env").AIOHTTP_CLIENT_SESSION_SSL = True
neighbour("env").ENABLE_FORWARD_USER_INFO_HEADERS = False
neighbour("internal.db").get_async_session = lambda: None
neighbour("utils.auth").get_admin_user = neighbour("utils.auth").get_verified_user = lambda: None
neighbour("routers.files").upload_file_handler = keep
spec = importlib.util.spec_from_file_location("open_webui.routers.images", file)
asyncio.run(generate())
