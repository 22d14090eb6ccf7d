"""One trace a job: from its caller's request through every stage, as an OTLP collector gets it."""

from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.cluster import Cluster
from tests.served.collector import Collector

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = {"TextEncoder encode", "Denoiser denoise", "Vae decode"}


def test_a_job_that_waits_in_line_is_one_trace_from_its_caller_to_its_last_stage(
    service: Cluster, collector: Collector
) -> None:
    body = {"prompt": "a zebra", "num_inference_steps": 10, "num_images": 10}
    for _ in range(2):  # more than there is room for
        service.submit(body)
    traceparent = {"traceparent": f"00-{TRACE}-{CALLER}-01"}
    _, job = service.call("/v1/jobs", body | {"num_images": 1}, traceparent)
    assert job["status"] == "queued"

    def trace() -> dict[str, Span]:
        return {span.span_id.hex(): span for span in collector.spans if span.trace_id.hex() == TRACE}

    def handled() -> set[str]:
        return {span.name.removeprefix("replica_handle_request ") for span in trace().values()}

    def parents() -> set[str]:
        return {span.parent_span_id.hex() for span in trace().values()}

    service.wait(lambda: handled() > STAGES | {"Dispatcher submit"} and parents() <= trace().keys() | {CALLER}, handled)
    for span in trace().values():
        if span.name.removeprefix("replica_handle_request ") in STAGES:
            assert {each.key: each.value.string_value for each in span.attributes}["request_id"] == job["id"]
    assert "zebra" not in str(collector.spans)
