"""Each metric that is ours, once. Ray adds its own of replicas, calls and batches."""

from ray.util.metrics import Counter


def texts() -> Counter:
    """Prompts and negative prompts that were asked for; `cached` is yes where their embeddings were still known."""
    return Counter("darkroom_texts", description="Texts asked for.", tag_keys=("cached",))
