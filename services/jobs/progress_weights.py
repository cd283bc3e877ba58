"""Each task's share of its job, so that progress runs evenly although stages are planned one at a time.

A stage gets what is left of the job, less the part for the work that its tasks expect in later stages. The shares never
add up to more than the whole, however wrong an estimate is, so progress never decreases. A stage that turns out not to
be
needed leaves its part to the next one.
"""

import itertools
from collections.abc import Sequence

from services.jobs.model import TOTAL_WEIGHT, NewTask


def stage_weights(tasks: Sequence[NewTask], given: int) -> list[int]:
    """Return the tasks' shares in parts of WHOLE; earlier stages got `given`.

    All 0 for tasks without weight.
    """
    own = sum(task.weight for task in tasks)
    if not own:
        return [0] * len(tasks)
    ahead = sum(task.ahead for task in tasks)
    stage = max(0, TOTAL_WEIGHT - given) * own // (own + ahead)
    # Round where each share ends and subtract where the previous one ends: the shares then add up exactly.
    ends = [stage * done // own for done in itertools.accumulate((task.weight for task in tasks), initial=0)]
    return [end - start for start, end in itertools.pairwise(ends)]
