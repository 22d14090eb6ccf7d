"""Who shares a forward: drawn at random, as clients do."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from models.denoiser.step_batcher import StepBatcher

MAX_ROWS = 8


@dataclass(frozen=True)
class Key:
    name: int
    cells: int


@dataclass(eq=False)
class Picture:
    key: Key
    rows: int
    steps: int
    done: int = 0

    @property
    def finished(self) -> bool:
        return self.done >= self.steps

    def advance(self, latents: object) -> None:
        self.done += 1


pictures = st.builds(
    Picture,
    key=st.sampled_from([Key(0, 256), Key(1, 1024), Key(2, 64)]),
    rows=st.sampled_from([1, 2]),
    steps=st.integers(1, 12),
)


def run(batcher: StepBatcher[Picture]) -> list[list[Picture]]:
    """Step until nothing is left; return the batches."""
    batches = []
    while batch := batcher.next_batch():
        batches.append(batch)
        batcher.advance(batch, [None] * len(batch))
    return batches


@given(st.lists(pictures, max_size=30))
def test_every_picture_makes_each_of_its_steps_once_in_batches_that_fit(arrivals):
    batcher = StepBatcher[Picture](lambda key: MAX_ROWS)
    for picture in arrivals:
        batcher.add(picture)
    batches = run(batcher)
    assert all(picture.done == picture.steps for picture in arrivals)
    assert all(sum(picture.rows for picture in batch) <= MAX_ROWS for batch in batches)
    assert all(len({picture.key for picture in batch}) == 1 for batch in batches)
    assert len(batcher) == 0


@given(st.data())
def test_nobody_is_lost_or_starves_when_pictures_come_and_go_at_every_step(data):
    batcher = StepBatcher[Picture](lambda key: MAX_ROWS)
    inside: list[Picture] = []
    for _ in range(30):
        for picture in data.draw(st.lists(pictures, max_size=2)):
            batcher.add(picture)
            inside.append(picture)
        if inside and data.draw(st.booleans()):
            leaver = data.draw(st.sampled_from(inside))
            batcher.remove([leaver])
            inside.remove(leaver)
        batch = batcher.next_batch()
        assert bool(batch) == bool(inside)
        finished = batcher.advance(batch, [None] * len(batch))
        inside = [picture for picture in inside if picture not in finished]
        assert set(map(id, batcher.states())) == set(map(id, inside))


def test_small_pictures_do_not_wait_for_large_ones():
    """In the time of one large forward, many small ones fit: time is shared, not turns."""
    batcher = StepBatcher[Picture](lambda key: MAX_ROWS)
    large = [Picture(Key(0, 4096), 2, 50) for _ in range(4)]
    small = Picture(Key(1, 256), 2, 20)
    for picture in (*large, small):
        batcher.add(picture)
    forwards = 0
    while not small.finished:
        batch = batcher.next_batch()
        batcher.advance(batch, [None] * len(batch))
        forwards += batch[0] is not small
    assert forwards <= 2


def test_within_a_key_the_first_to_come_is_the_first_served():
    batcher = StepBatcher[Picture](lambda key: 2)
    first, second = (Picture(Key(0, 64), 2, 3) for _ in range(2))
    batcher.add(first)
    batcher.add(second)
    assert [batch[0] for batch in run(batcher)] == [first] * 3 + [second] * 3
