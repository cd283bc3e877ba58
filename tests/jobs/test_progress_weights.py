"""Shares of a job: whatever is foreseen and whatever comes, they add up and leave room for what is foreseen."""

import hypothesis
from hypothesis import strategies as st

from services.jobs import progress_weights
from services.jobs.model import TOTAL_WEIGHT, JobProgress, JobState, NewTask

SIZES = st.integers(0, 1 << 50)


@st.composite
def stages(draw: st.DrawFn) -> list[NewTask]:
    return [NewTask("test.run", b"", weight=draw(SIZES), ahead=draw(SIZES)) for _ in range(draw(st.integers(1, 5)))]


@hypothesis.given(st.lists(stages(), min_size=1, max_size=6))
def test_no_more_than_the_whole_is_given(job: list[list[NewTask]]) -> None:
    given = 0
    for stage in job:
        found = progress_weights.stage_weights(stage, given)
        assert len(found) == len(stage)
        assert min(found) >= 0
        given += sum(found)
        assert given <= TOTAL_WEIGHT
    last = [NewTask("test.run", b"", weight=1)]
    assert given + sum(progress_weights.stage_weights(last, given)) == TOTAL_WEIGHT


def test_a_stage_takes_its_part_of_what_is_left() -> None:
    stage = [NewTask("test.run", b"", weight=weight, ahead=2 * weight) for weight in (1, 3)]
    assert progress_weights.stage_weights(stage, TOTAL_WEIGHT // 4) == [TOTAL_WEIGHT // 16, 3 * TOTAL_WEIGHT // 16]


def test_small_tasks_beside_many_lose_nothing() -> None:
    assert sum(progress_weights.stage_weights([NewTask("test.run", b"", weight=7)] * 30_001, 0)) == TOTAL_WEIGHT


def test_without_weight_there_is_no_share() -> None:
    assert progress_weights.stage_weights([NewTask("test.run", b"")] * 2, 0) == [0, 0]


def test_byte_weights_reach_full_progress() -> None:
    # Made before weights were shares: more than the whole, or far less.
    for weight in (5 * TOTAL_WEIGHT, 1000):
        half = JobProgress(JobState.ACTIVE, 2, weight, 1, weight // 2, []).percent()
        assert 0 < half <= 50
        assert JobProgress(JobState.SUCCEEDED, 2, weight, 2, weight, []).percent() == 100
