"""Ports for servers that do not listen yet."""

import itertools
import secrets

import pytest

from services.embedded import ports


def test_no_two_servers_get_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    # Chance gives every number twice.
    draws = itertools.chain.from_iterable((number, number) for number in itertools.count(5000))
    monkeypatch.setattr(secrets, "randbelow", lambda _: next(draws))
    given = [ports.free_port() for _ in range(8)]
    assert len(set(given)) == len(given)
