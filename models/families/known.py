"""Which pipelines of `model_index.json` are served, by which family module, and the parts they load. No torch."""

FAMILIES: dict[str, str] = {
    "StableDiffusionPipeline": "sd",
    "LatentConsistencyModelPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
}
PARTS: dict[str, tuple[str, ...]] = {
    "sd": ("text_encoder", "unet", "vae"),
    "sdxl": ("text_encoder", "text_encoder_2", "unet", "vae"),
}
TOKENIZERS: dict[str, tuple[str, ...]] = {"sd": ("tokenizer",), "sdxl": ("tokenizer", "tokenizer_2")}
