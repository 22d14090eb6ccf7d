"""What answers look like, for the description: made of the same types as the answers."""

from dataclasses import asdict, replace
from typing import Any

from deployments.dispatcher.queue_stats import ModelStats, QueueStats
from deployments.input_store import StoredInput
from deployments.jobs import ImageResult, Job, QueuePlace, Timestamps, job_body
from deployments.stages import DENOISER, TEXT_ENCODER, VAE
from models.spec import ImageSpec, Tokens

AN_ID = "job_0123456789abcdef0123456789abcdef"
AN_INPUT = "input_8b72cafae5b01dcd6cd3a20b8d7d6a1b7b1ab7e2a4c5d7c3b7b2f0a9e8d7c6b5"
A_FILE = f"{AN_ID}-0-1-1.png"

_spec = ImageSpec(
    model="shapes",
    prompt="a red circle on a blue background",
    negative_prompt="",
    width=128,
    height=128,
    num_inference_steps=20,
    guidance_scale=2.0,
    sampler="ddim",
    seed=7,
    output_format="png",
)
_picture = ImageResult(
    index=0,
    url=f"/v1/files/{A_FILE}",
    name=A_FILE,
    seed=7,
    spec=_spec,
    model_digest="5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
    encode_s=0.004,
    denoise_s=0.77,
    decode_s=0.07,
    batch_rows=2,
    attempts=1,
    size=9120,
)
_queued = Job(
    id=AN_ID,
    status="queued",
    specs=(_spec,),
    timestamps=Timestamps(created=1790000000.0, deadline=1790003600.0),
    queue=QueuePlace(position=3, size=7, eta_s=12.4, end_eta_s=13.3),
    version=1,
)
_done = replace(
    _queued,
    status="succeeded",
    queue=None,
    images=(_picture,),
    timestamps=replace(_queued.timestamps, started=1790000012.1, ended=1790000013.0),
    version=9,
)


QUEUED = job_body(_queued)
DONE = job_body(_done)
JOBS = {"object": "list", "data": [DONE], "has_more": False, "last_id": AN_ID}
INPUT = asdict(StoredInput(id=AN_INPUT, width=128, height=128, bytes=9120, created=1790000000.0, expires=1790086400.0))
EXTENDED = {"input": INPUT, "mask": INPUT}
INPUTS = {"object": "list", "data": [INPUT], "has_more": False, "last_id": AN_INPUT}
PICTURES = {
    "created": 1790000013,
    "data": [{"b64_json": "iVBORw0KGgo…", "seed": 7}],
    "background": "opaque",
    "output_format": "png",
    "quality": "auto",
    "size": "128x128",
}
TOKENS = {"prompt": asdict(Tokens(8, 75, "")), "negative_prompt": asdict(Tokens(0, 75, ""))}
QUEUE = asdict(
    QueueStats(
        waiting=5,
        running=2,
        eta_s=14.2,
        replicas={TEXT_ENCODER.key: 1, DENOISER.key: 2, VAE.key: 1},
        batch_rows_mean=6.5,
        starting={TEXT_ENCODER.key: 0, DENOISER.key: 1, VAE.key: 0},
        owners=3,
        models={
            "shapes": ModelStats(
                waiting=5,
                running=2,
                eta_s=14.2,
                replicas={TEXT_ENCODER.key: 1, DENOISER.key: 2, VAE.key: 1},
                starting={TEXT_ENCODER.key: 0, DENOISER.key: 1, VAE.key: 0},
            )
        },
    )
)
MODEL = {
    "id": "shapes",
    "object": "model",
    "created": 0,
    "owned_by": "darkroom",
    "capabilities": {"bounds": {"width": [128, 128]}, "samplers": ["ddim", "euler"], "max_tokens": 75},
}
MODELS = {"object": "list", "data": [MODEL]}
READY = {"ready": True, "missing": [], "problem": None, "applications": {}}


def answer(model: type, example: Any, **more: Any) -> dict[str, Any]:
    """Return what OpenAPI says of an answer: its shape, and one like it."""
    return {"model": model, "content": {"application/json": {"example": example}}, **more}
