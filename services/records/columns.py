"""Columns that records have in common. Times come from the database's clock."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""How constraints and indexes are named."""


def text(name: str) -> sa.Column[str]:
    """Return a text, empty at first."""
    return sa.Column(name, sa.Text, nullable=False, server_default="")


def count(name: str) -> sa.Column[int]:
    """Return a number that may grow large, 0 at first."""
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def small(name: str) -> sa.Column[int]:
    """Return a number, 0 at first."""
    return sa.Column(name, sa.Integer, nullable=False, server_default="0")


def document(name: str, default: str) -> sa.Column[object]:
    """Return a JSON document; `default` is JSON too."""
    return sa.Column(name, pg.JSONB, nullable=False, server_default=sa.text(f"'{default}'::jsonb"))


def time(name: str) -> sa.Column[object]:
    """Return a time, the row's making unless something sets it."""
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False, server_default=sa.func.clock_timestamp())


def optional_time(name: str) -> sa.Column[object]:
    """Return a time that may not have come."""
    return sa.Column(name, sa.DateTime(timezone=True))


def status(*states: str) -> tuple[sa.Column[str], sa.CheckConstraint]:
    """Return where a record stands, the first of the states at first."""
    listed = ", ".join(f"'{state}'" for state in states)
    return (
        sa.Column("status", sa.Text, nullable=False, server_default=states[0]),
        sa.CheckConstraint(f"status IN ({listed})", name="status"),
    )


def progress() -> tuple[sa.Column[float], sa.CheckConstraint]:
    """Percent done."""
    return (
        sa.Column("progress", sa.Double, nullable=False, server_default="0"),
        sa.CheckConstraint("progress >= 0 AND progress <= 100", name="progress"),
    )
