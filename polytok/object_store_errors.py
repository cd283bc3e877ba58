"""What goes wrong between fsspec and an object store, in words that say what to do.

Configuration comes from where every AWS tool takes it (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`,
`AWS_SESSION_TOKEN`, `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL`, roles of machines). No secret is in any message: what an
error says is passed on only where the store said it. Errors are told by the names of their classes and by the store's
codes (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), so that nothing is imported.
"""

import errno
import re
from collections.abc import Iterator
from typing import NamedTuple

from polytok import errors


class _Rule(NamedTuple):
    names: frozenset[str]
    kind: type[errors.PolytokError]
    text: str
    """`{bucket}` and `{uri}` are where it happened, `{said}` is what the store said."""


_RULES = (
    _Rule(
        frozenset({"NoSuchBucket"}),
        errors.FailedPrecondition,
        "There is no bucket {bucket}. Create it, or mend the name; AWS_ENDPOINT_URL names a store other than AWS.",
    ),
    _Rule(
        frozenset({"ParamValidationError", "InvalidBucketName"}),
        errors.FailedPrecondition,
        "{bucket} is no name that a bucket can have. Mend it; credentials belong into the environment.",
    ),
    _Rule(
        frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}),
        errors.FailedPrecondition,
        "There are no credentials for {bucket}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or "
        "give the machine a role.",
    ),
    _Rule(
        frozenset({"PermanentRedirect", "IllegalLocationConstraintException", "AuthorizationHeaderMalformed", "301"}),
        errors.FailedPrecondition,
        "{bucket} is in another region than the one that was asked. Set AWS_DEFAULT_REGION to the bucket's.",
    ),
    _Rule(
        frozenset(
            {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
        ),
        errors.PermissionDenied,
        "{bucket} does not accept these credentials ({said}). Mend or renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY "
        "and AWS_SESSION_TOKEN, or AWS_PROFILE.",
    ),
    _Rule(
        frozenset({"AccessDenied", "AllAccessDisabled", "403", "PermissionError"}),
        errors.PermissionDenied,
        "Access to {uri} is denied ({said}). Grant these credentials s3:ListBucket on the bucket and s3:GetObject, "
        "s3:PutObject and s3:DeleteObject in it; to read, the first two are enough.",
    ),
    _Rule(
        frozenset({"ConnectionError", "HTTPClientError", "aiohttp.ClientError", "EndpointResolutionError"}),
        errors.Unavailable,
        "{bucket} cannot be reached. Check the network and AWS_ENDPOINT_URL, then try again.",
    ),
    _Rule(
        frozenset({"BotoCoreError", "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout", "500", "503"}),
        errors.Unavailable,
        "{bucket} failed ({said}). Try again later.",
    ),
    _Rule(
        frozenset({"ImportError"}),
        errors.FailedPrecondition,
        "{uri} needs a package that opens it, and this Python has none ({said}). For s3:// install it with "
        "`pip install 'polytok[s3]'`.",
    ),
)


def translate(error: BaseException, uri: str, reason: str = "STORAGE_FAILED") -> errors.PolytokError | None:
    """Our error for one of the object store at `uri`; None for what is the same as with local files.

    FailedPrecondition for what somebody has to set up, PermissionDenied, and Unavailable for what may work later.
    `reason` is the ErrorReason of the first two.
    """
    names = {name for each in _chain(error) for name in _names(each)}
    shown = re.sub(r"://[^/@]*@", "://", uri).split("?", 1)[0]
    for trouble in _RULES:
        if names & trouble.names:
            text = trouble.text.format(bucket="/".join(shown.split("/")[:3]), uri=shown, said=_said(error))
            return trouble.kind(text, reason="STORAGE_FAILED" if trouble.kind is errors.Unavailable else reason)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _names(error: BaseException) -> Iterator[str]:
    """Yield the names of an error's classes, and the store's own code for it."""
    if isinstance(error, ImportError):
        yield "ImportError"
    # s3fs raises this in place of the store's error, and also where a store answers without any code.
    if isinstance(error, PermissionError) and error.errno not in {errno.EACCES, errno.EPERM}:
        yield "PermissionError"
    for kind in type(error).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in {"botocore", "aiobotocore"} and kind.__name__ != "ClientError":
            yield kind.__name__
        elif package == "aiohttp":
            yield f"aiohttp.{kind.__name__}"
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        yield str(response.get("Error", {}).get("Code", ""))


def _said(error: BaseException) -> str:
    """Return what the store said, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split())[:200].rstrip(".")
