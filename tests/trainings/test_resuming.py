"""Which resume point of a training is further on than another."""

from polytok.trainer.v1 import tasks_pb2
from services.runtime.storage import Storage
from services.trainer.server.jobs import TrainingJobHandler


def test_a_checkpoint_of_a_later_step_is_further(storage: Storage) -> None:
    def point(step: int, key: str = "k") -> bytes:
        return tasks_pb2.ResumePoint(step=step, key=key).SerializeToString()

    handler = TrainingJobHandler(storage)
    assert handler.is_further(b"", point(1))
    assert handler.is_further(point(1), point(2))
    assert not handler.is_further(point(2), point(2, "written again"))
    # A damaged checkpoint was passed over for the one before.
    assert not handler.is_further(point(2), point(1))
