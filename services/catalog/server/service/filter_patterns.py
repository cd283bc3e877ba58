"""Regular expressions, checked by what will run them."""

from polytok import errors
from polytok.catalog.v1 import tokenizations_pb2


def check(filters: tokenizations_pb2.Filters) -> None:
    """Refuse a pattern that Arrow's regular expressions (RE2) do not take."""
    for name in ("keep_pattern", "drop_pattern"):
        pattern = getattr(filters, name)
        if not pattern:
            continue
        # Most tokenizations have no pattern, and importing Arrow takes a while.
        import pyarrow as pa  # noqa: PLC0415
        import pyarrow.compute as pc  # noqa: PLC0415

        try:
            pc.match_substring_regex(pa.array([""]), pattern=pattern)
        except pa.ArrowInvalid as error:
            field = f"parameters.filters.{name}"
            description = f"{error}. Write it as RE2 has it: https://github.com/google/re2/wiki/Syntax."
            raise errors.InvalidArgument(
                f"{field}: {description}", violations=[errors.FieldViolation(field, description)]
            ) from None
