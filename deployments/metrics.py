"""What the stages record; the Dispatcher's metrics are in `dispatcher.metrics`. Ray adds its own of replicas and calls.

Serve tags them with application, deployment and replica; the application of a stage is its model. Prometheus sees
`ray_` before their names, and `_total` behind those of counters. Recording one takes 1 to 3 µs (`benchmarks.metrics`).
Ray forgets a gauge with each report, every 10 s: those are set by what comes round more often, a stage's by Serve's
health check.
"""

from ray.serve.metrics import Counter, Gauge, Histogram

from models.spec import StepUpdate

STEP_S = [0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0]
STAGE_S = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0]
ROWS = [1.0, 2.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 128.0, 256.0]


class StageMetrics:
    """What every stage records."""

    def __init__(self) -> None:
        self.seconds = Histogram(  # a picture in the Denoiser, from joining to its last step; else a batch
            "darkroom_stage_seconds", description="Seconds that a stage worked on a picture.", boundaries=STAGE_S
        )
        self.gpu_memory = Gauge(  # of the whole device, Ray tells `ray_node_gram_used`
            "darkroom_gpu_memory_bytes", description="Bytes that a replica's tensors take on its GPU."
        )


class TextEncoderMetrics(StageMetrics):
    """What a TextEncoder records besides."""

    def __init__(self) -> None:
        super().__init__()
        self._prompts = Counter(
            "darkroom_prompts_encoded", description="Prompts to encode, negative ones included.", tag_keys=("cached",)
        )

    def prompts(self, asked: int, cached: int) -> None:
        """Count the prompts of a batch, and those whose embeddings were cached."""
        for known, count in (("yes", cached), ("no", asked - cached)):
            if count:
                self._prompts.inc(count, {"cached": known})


class DenoiserMetrics(StageMetrics):
    """What a Denoiser records besides."""

    def __init__(self) -> None:
        super().__init__()
        self._rows_in_use = Gauge("darkroom_rows_in_use", description="Rows of the pictures that a Denoiser holds.")
        self._batch_rows_limit = Gauge("darkroom_batch_rows_limit", description="Rows that a forward may have now.")
        self._step_seconds = Histogram(
            "darkroom_step_seconds", description="Seconds of a step and of what lies before it.", boundaries=STEP_S
        )
        self._batch_rows = Histogram("darkroom_batch_rows", description="Rows that share a forward.", boundaries=ROWS)
        self._most_rows = 0  # in the newest step
        self._forward_rows = Counter("darkroom_forward_rows", description="Rows of forwards, fillers included.")

    def step(self, update: StepUpdate) -> None:
        """Take in one step, as any of its pictures was told of it."""
        self._step_seconds.observe(update.step_s)
        self._batch_rows.observe(update.batch_rows)
        self._most_rows = update.most_rows
        self._forward_rows.inc(update.forward_rows)

    def rows(self, in_use: int) -> None:
        """Take in how many rows the pictures have that a replica holds, and say how many a forward may have."""
        self._rows_in_use.set(in_use)
        if self._most_rows:
            self._batch_rows_limit.set(self._most_rows)
