"""Translate errors between fsspec and an object store into errors that say what to do.

Configuration is that of every AWS tool (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE`,
`AWS_SESSION_TOKEN`, `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL`, machine roles). Messages contain no secrets: the text of
an error is quoted only if it came from the store. Errors are recognized by the names of their classes and the store's
codes (https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html), so nothing is imported.
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
    """A template: `{bucket}` and `{uri}` are the location, `{said}` is the store's message."""


_RULES = (
    _Rule(
        frozenset({"NoSuchBucket"}),
        errors.FailedPrecondition,
        "Bucket {bucket} does not exist. Create it or correct the name. Set AWS_ENDPOINT_URL for other stores.",
    ),
    _Rule(
        frozenset({"ParamValidationError", "InvalidBucketName"}),
        errors.FailedPrecondition,
        "{bucket} is not a valid bucket name. Correct it; credentials belong in the environment.",
    ),
    _Rule(
        frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"}),
        errors.FailedPrecondition,
        "No credentials for {bucket}. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or assign the "
        "machine a role.",
    ),
    _Rule(
        frozenset({"PermanentRedirect", "IllegalLocationConstraintException", "AuthorizationHeaderMalformed", "301"}),
        errors.FailedPrecondition,
        "{bucket} is in another region. Set AWS_DEFAULT_REGION to the bucket's region.",
    ),
    _Rule(
        frozenset(
            {"InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "RequestTimeTooSkewed"}
        ),
        errors.PermissionDenied,
        "{bucket} rejected the credentials ({said}). Correct or renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
        "AWS_SESSION_TOKEN, or AWS_PROFILE.",
    ),
    _Rule(
        frozenset({"AccessDenied", "AllAccessDisabled", "403", "PermissionError"}),
        errors.PermissionDenied,
        "Access to {uri} is denied ({said}). Grant these credentials s3:ListBucket on the bucket and s3:GetObject, "
        "s3:PutObject and s3:DeleteObject in it; reading needs only the first two.",
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
        "Opening {uri} needs a package that is not installed ({said}). For s3://, run `pip install 'polytok[s3]'`.",
    ),
)


def translate(error: BaseException, uri: str, reason: str = "STORAGE_FAILED") -> errors.PolytokError | None:
    """Return the error for an error of the object store at `uri`, or None if it is not specific to object stores.

    It is FailedPrecondition for missing setup, PermissionDenied, or Unavailable for a temporary failure. `reason` is
    the ErrorReason of the first two.
    """
    names = {name for each in _chain(error) for name in _names(each)}
    shown = re.sub(r"://[^/@]*@", "://", uri).split("?", 1)[0]
    for rule in _RULES:
        if names & rule.names:
            text = rule.text.format(bucket="/".join(shown.split("/")[:3]), uri=shown, said=_message(error))
            return rule.kind(text, reason="STORAGE_FAILED" if rule.kind is errors.Unavailable else reason)
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _names(error: BaseException) -> Iterator[str]:
    """Yield the names of an error's classes, and the store's code for it."""
    if isinstance(error, ImportError):
        yield "ImportError"
    # s3fs raises this instead of the store's error, and also if a store responds without a code.
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


def _message(error: BaseException) -> str:
    """Return the store's message, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((text or type(error).__name__).split())[:200].rstrip(".")
