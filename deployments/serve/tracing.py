"""Where Serve sends its spans: to the collector that OpenTelemetry's `OTEL_EXPORTER_OTLP_ENDPOINT` names."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor


def otlp() -> list[SpanProcessor]:
    """What `tracing_config.exporter_import_path` names. Spans go in batches, every five seconds."""
    return [BatchSpanProcessor(OTLPSpanExporter())]
