"""Compare the tables in the database with those of a service's metadata.

The metadata's tables are created in a schema that is rolled back, and Postgres itself describes both: columns,
defaults, constraints and indexes, as it would print them.
"""

import sqlalchemy as sa

_SCRATCH = "polytok_check"

# Order does not matter: columns added later come last. NOT NULL is part of the column.
_DESCRIPTION = """
    WITH relations AS (
        SELECT c.oid, c.relname FROM pg_class AS c
        WHERE c.relnamespace = to_regnamespace(:schema) AND c.relkind IN ('r', 'p') AND c.relname = ANY (:names)
    )
    SELECT 'table ' || relname, '' FROM relations
    UNION ALL
    SELECT 'column ' || r.relname || '.' || a.attname,
           format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
           || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
    FROM relations AS r
    JOIN pg_attribute AS a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    UNION ALL
    SELECT 'constraint ' || r.relname || '.' || c.conname, pg_get_constraintdef(c.oid)
    FROM relations AS r JOIN pg_constraint AS c ON c.conrelid = r.oid AND c.contype <> 'n'
    UNION ALL
    SELECT 'index ' || r.relname || '.' || i.relname, pg_get_indexdef(i.oid)
    FROM relations AS r JOIN pg_index AS x ON x.indrelid = r.oid JOIN pg_class AS i ON i.oid = x.indexrelid
"""


def differences(connection: sa.Connection, metadata: sa.MetaData, schema: str) -> list[str]:
    """Return the differences from the tables in a schema, one phrase each; empty if there are none."""
    nested = connection.begin_nested()
    try:
        connection.execute(sa.text(f"CREATE SCHEMA {_SCRATCH}"))
        connection.execute(sa.text(f"SET LOCAL search_path = {_SCRATCH}"))
        scratch = connection.execution_options(schema_translate_map={metadata.schema: _SCRATCH})
        metadata.create_all(scratch, checkfirst=False)
        names = [table.name for table in metadata.sorted_tables]
        wanted, found = _described(connection, _SCRATCH, names), _described(connection, schema, names)
    finally:
        nested.rollback()
    return [
        f"{thing} {_phrase(wanted.get(thing), found.get(thing))}"
        for thing in sorted(wanted.keys() | found.keys())
        if wanted.get(thing) != found.get(thing)
    ]


def _described(connection: sa.Connection, schema: str, names: list[str]) -> dict[str, str]:
    rows = connection.execute(sa.text(_DESCRIPTION), {"schema": schema, "names": names})
    return {thing: definition.replace(f"{schema}.", "") for thing, definition in rows}


def _phrase(wanted: str | None, found: str | None) -> str:
    if found is None:
        return "is missing"
    if wanted is None:
        return "should not exist"
    return f"is {found!r}, expected {wanted!r}"
