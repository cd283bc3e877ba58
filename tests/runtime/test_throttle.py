"""How often a throttle lets something happen."""

from services.runtime.throttle import Throttle

_HOUR = 3600.0


def test_the_first_time_is_immediate_and_the_next_waits() -> None:
    throttle = Throttle(_HOUR)
    assert throttle.seconds_left() <= 0
    assert [throttle.ready(), throttle.ready()] == [True, False]
    assert 0 < throttle.seconds_left() <= _HOUR


def test_a_forced_event_begins_an_interval() -> None:
    throttle = Throttle(_HOUR)
    assert throttle.ready(force=True)
    assert not throttle.ready()
    assert throttle.ready(force=True)


def test_without_an_interval_nothing_waits() -> None:
    throttle = Throttle(0.0)
    assert [throttle.ready(), throttle.ready()] == [True, True]
