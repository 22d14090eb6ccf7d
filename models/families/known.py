"""Which pipelines of `model_index.json` are served, and by which family module. No torch."""

FAMILIES: dict[str, str] = {"StableDiffusionPipeline": "sd"}
