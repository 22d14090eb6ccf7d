"""What the autoscaler is told that an image takes of a replica."""

from deployments.stages.stats import StageStats


def test_what_an_image_took_before_its_last_batch_counts() -> None:
    stats = StageStats(parameter_bytes=0)
    stats.spent(0.5)  # two are encoded
    stats.spent(0.3)  # one is scaled up
    stats.took(2, 0.2)
    assert stats.picture_s == 0.5
    stats.took(2, 0.2)
    assert 0.45 < stats.picture_s < 0.5, "what was spent counts once"
