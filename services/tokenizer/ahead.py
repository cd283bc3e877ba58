"""The steps of a shard's way, each in a thread of its own."""

from services.runtime.ahead import Ahead

__all__ = ["Ahead"]
