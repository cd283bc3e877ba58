"""What each task is of its whole job, so that progress runs evenly to the end although stages are planned one by one.

A stage is given what is left of the job, less the part for the work that its tasks foresee for stages after it. So the
shares of all tasks never come to more than the whole, however wrong what was foreseen is, and progress cannot go back:
a stage that turned out not to be needed leaves its part to the next.
"""

import itertools
from collections.abc import Sequence

from services.jobs.model import TOTAL_WEIGHT, NewTask


def stage_weights(tasks: Sequence[NewTask], given: int) -> list[int]:
    """Return the tasks' shares in parts of WHOLE, where stages before were given `given`.

    All 0 for tasks without weight.
    """
    own = sum(task.weight for task in tasks)
    if not own:
        return [0] * len(tasks)
    ahead = sum(task.ahead for task in tasks)
    stage = max(0, TOTAL_WEIGHT - given) * own // (own + ahead)
    # Where each ends, rounded, less where the one before ends: together they are the stage, to the last part.
    ends = [stage * done // own for done in itertools.accumulate((task.weight for task in tasks), initial=0)]
    return [end - start for start, end in itertools.pairwise(ends)]
