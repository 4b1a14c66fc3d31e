"""What the clients of stores, web servers and the Hub raise: what may pass by itself, and what a person must mend."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator

from pipeline.errors import PipelineError
from pipeline.storage import StoreError

#: Classes, by name, of errors that are another time's: the clients are not imported to look at what they raise.
_PASSING = frozenset(
    (
        "ConnectionError", "Timeout", "ClientConnectionError", "ClientPayloadError", "HTTPClientError", "IncompleteRead",
        "IncompleteReadError", "TransportError", "ProtocolError", "ChunkedEncodingError", "ServiceRequestError",
        "ServiceResponseError",
    )
)  # fmt: skip

#: And of those that would come again, though some are of the classes above.
_STAYING = frozenset(
    (
        "OfflineModeIsEnabled", "ClientConnectorCertificateError", "InvalidURL", "UnsupportedProtocol",
        "LocalProtocolError", "NoCredentialsError", "PartialCredentialsError", "ProfileNotFound",
    )
)  # fmt: skip

_STAYING_TYPES = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_STAYING_CODES = (
    errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.EMSGSIZE, errno.ENOTEMPTY, errno.ELOOP,
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG,
)  # fmt: skip

#: Answers below 500 that ask for patience, and those from 500 on that do not.
_PATIENCE, _NEVER = (408, 425, 429), (501, 505)


def may_pass(error: BaseException) -> bool:
    """Whether what a client of a server raised may not be raised another time.

    True of an answer 5xx or 429, a slow-down, a timeout, a lost connection; false of 404, 403, and what is no error of a
    server at all. The errors that it was raised from are looked at too.
    """
    if (known := verdict(error)) is not None:
        return known
    chain = _chain(error)
    first = next((one for one in chain if isinstance(one, OSError)), None)
    if first is None or isinstance(first, _STAYING_TYPES):
        return False
    return first.errno is not None and first.errno not in _STAYING_CODES


def verdict(error: BaseException) -> bool | None:
    """As ``may_pass``, but None where neither a server's answer nor the kind of the error tells."""
    chain = list(_chain(error))
    if isinstance(error, StoreError):
        return True
    if any(_is_named(one, _STAYING) for one in chain):
        return False
    if any(isinstance(one, TimeoutError) for one in chain):
        return True
    for one in chain:
        if (status := _status(one)) is not None:
            return status in _PATIENCE or (status >= 500 and status not in _NEVER)
    return True if any(_is_named(one, _PASSING) for one in chain) else None


def told(error: BaseException, message: str, lasting: type[PipelineError]) -> StoreError | PipelineError:
    """What to raise for what a client raised: StoreError where it may pass, else ``lasting``."""
    return StoreError(f"{message} (this may pass: run it again)") if may_pass(error) else lasting(message)


def passing_in(error: BaseException) -> StoreError | None:
    """The StoreError that a library made another error of; None where there is none."""
    return next((one for one in _chain(error) if isinstance(one, StoreError)), None)


def client_errors() -> tuple[type[Exception], ...]:
    """What clients raise, of those that are loaded; ValueError is what the Hub's says of a name that cannot be one."""
    named = (
        ("httpx2", "HTTPError"), ("httpx", "HTTPError"), ("aiohttp", "ClientError"), ("botocore.exceptions", "BotoCoreError"),
    )  # fmt: skip
    loaded = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return (OSError, ValueError, *loaded)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_named(error: BaseException, names: frozenset[str]) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """The status of a server's answer, wherever its client keeps it."""
    response = getattr(error, "response", None)
    found = [
        getattr(error, "status", None),
        getattr(error, "status_code", None),
        getattr(response, "status_code", None),
    ]
    if isinstance(response, dict):
        found.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
    if type(error).__name__ == "HttpError":  # of gcsfs
        found.append(getattr(error, "code", None))
    numbers = [int(one) for one in found if isinstance(one, int) or (isinstance(one, str) and one.isdigit())]
    return next((number for number in numbers if 400 <= number < 600), None)
