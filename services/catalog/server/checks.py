"""Checks that the apis of datasets and models share."""

from google.protobuf import field_mask_pb2

from polytok import errors


def check_mask(mask: field_mask_pb2.FieldMask) -> None:
    """Refuse to change anything but metadata (AIP-134)."""
    for path in mask.paths:
        if path not in {"metadata", "*"}:
            description = f"{path!r} cannot be changed; only 'metadata' can."
            raise errors.InvalidArgument(
                f"update_mask: {description}", violations=[errors.FieldViolation("update_mask", description)]
            )


def depended_on(resource: str, dependents: list[str]) -> errors.FailedPrecondition:
    """Return the error that names the tokenizations of what was to be deleted."""
    count = len(dependents)
    what = "1 tokenization" if count == 1 else f"{count} tokenizations"
    shown = ", ".join(dependents[:3]) + (", …" if count > 3 else "")
    kind, _, identifier = resource.partition("/")
    return errors.FailedPrecondition(
        f"{resource} has {what} ({shown}); delete {'it' if count == 1 else 'them'} first, or all of it with "
        f"`polytok {kind.removesuffix('s')} delete {identifier} --force`.",
        reason="RESOURCE_HELD",
        metadata={"resource": resource, "holders": ", ".join(dependents)[:1000]},
    )
