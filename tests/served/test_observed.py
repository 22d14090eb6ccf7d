"""What operators see of a service that works: its metrics, and its logs."""

import json
import re

from tests.operations import metrics_used

PROMPT = "a red circle on a blue background"
WITHOUT_CAUSE = {  # what there is to see only where something is the case that is not here
    "ray_darkroom_retries_total": "a replica dies under a picture",
    "ray_node_gpus_utilization": "a GPU",
    "ray_node_gram_used": "a GPU",
    "ray_node_gram_available": "a GPU",
}


def test_every_metric_of_dashboard_and_alerts_is_there_under_load(service):
    body = {"prompt": PROMPT, "num_inference_steps": 30, "num_images": 8}  # more than there is room for: the last waits
    jobs = [service.post("/v1/jobs", body)[1]["id"] for _ in range(4)]
    assert service.post("/v1/jobs", body | {"model": "magic"})[0] == 404
    service.wait(lambda: (service.get(f"/v1/jobs/{jobs[0]}")[1]["progress"] or {}).get("step", 0) > 0)
    service.post(f"/v1/jobs/{jobs[0]}/cancel", {})
    service.wait(lambda: service.get(f"/v1/jobs/{jobs[-1]}")[1]["status"] == "succeeded")
    assert metrics_used() > WITHOUT_CAUSE.keys()

    def missing() -> set[str]:
        return metrics_used() - WITHOUT_CAUSE.keys() - set(re.findall(r"^(\w+)\{", service.metrics(), re.MULTILINE))

    service.wait(lambda: not missing(), otherwise=missing)


def lines(service, deployment: str) -> list[dict]:
    """What the replicas of a deployment have logged."""
    files = service.logs().glob(f"serve/replica_*_{deployment}_*.log")
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def done_for(service, job_id: str, deployment: str) -> list[list[str]]:
    """What a deployment has logged in a job's name, without durations."""
    of_job = [line for line in lines(service, deployment) if line.get("request_id") == job_id]
    return [line["message"].split()[:3] for line in of_job]


def test_a_jobs_life_can_be_followed_by_its_id_from_the_request_to_its_last_stage(service):
    _, job = service.post("/v1/jobs", {"prompt": PROMPT, "num_inference_steps": 6, "num_images": 2})
    service.wait(lambda: service.get(f"/v1/jobs/{job['id']}")[1]["status"] == "succeeded")
    said = {line["message"]: line for line in lines(service, "Dispatcher") if line.get("job") == job["id"]}
    assert said.keys() == {"job accepted", "job ended"}
    ended = said["job ended"]
    assert (ended["status"], ended["error_code"], ended["pictures"], ended["drawn"]) == ("succeeded", None, 2, 2)
    assert (ended["owner_kind"], ended["rows"], ended["attempts"]) == ("peer", 4, 1)
    assert ended["encode_s"] + ended["denoise_s"] + ended["decode_s"] > 0
    assert 0 <= ended["wait_s"] < ended["total_s"]
    request = said["job accepted"]["request_id"]
    assert [
        line["message"].split()[:2] for line in lines(service, "ApiIngress") if line.get("request_id") == request
    ] == [["POST", "/v1/jobs"]]
    for stage, call in (("TextEncoder", "encode"), ("Denoiser", "denoise"), ("Vae", "decode")):
        service.wait(lambda stage=stage, call=call: done_for(service, job["id"], stage) == [["CALL", call, "OK"]] * 2)
