"""The errors of this project, in one family that derives from the SDK's.

::

    ActitoDidomiError                   anything a user can act upon; holds no personal data
    ├── SettingsError                   settings and the account they point at don't fit
    │   ├── InvalidSettingsError        settings fail their checks, before anything is done
    │   └── InvalidMappingError         a mapping can't be read, or is ambiguous
    ├── BadInputError                   a file or record of the source is broken
    ├── ApiError                        a request failed
    │   ├── AuthenticationError         the credentials are refused
    │   ├── RequestRejectedError        this request is refused for good (400, 403, 404, ...)
    │   ├── UnavailableError            no usable response, after all attempts
    │   ├── ImportQuotaExceededError    no import is left today, single requests take too long
    │   └── StoppedError                given up because the process is shutting down
    ├── TooManyRejectsError             the run stops: its configuration is plainly wrong
    ├── DirectionInUseError             another run of the same direction is still writing
    ├── MistakeFoundError           the records show that the settings are wrong
    └── OptOutsRejectedError            all is written except opt-outs that the API refused

Each has a code (`actito_didomi.codes`). Every text says what was found, what was expected and what
to do, and is fit for a log: people appear as a short hash (`actito_didomi.privacy.hash_person`),
secrets never.

A host that catches the SDK's `SingerSDKError`, `ConfigurationError`, `ConfigValidationError`,
`DataError`, `FatalAPIError` or `FatalSyncError` catches these errors as well.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from singer_sdk.exceptions import (
    ConfigurationError,
    ConfigValidationError,
    DataError,
    FatalAPIError,
    FatalSyncError,
    MissingKeyPropertiesError,
    RecordsWithoutSchemaException,
    SingerSDKError,
)
from singer_sdk.singerlib.exceptions import SingerError

from actito_didomi import codes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from actito_didomi.codes import Code

_ABOUT_WHAT_WAS_SENT = frozenset({400, 403, 404, 406, 409, 410, 413, 422})
_CODED = re.compile(r"AD\d{3} \w+: ")


class ActitoDidomiError(SingerSDKError):
    """Base of all errors of this project.

    Args:
        code: What kind of error it is.
        message: The text, without the code.

    Attributes:
        exit_code: Exit status of a plugin that ends with this error.
    """

    exit_code = 1

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        """Render code and text, as in `AD107 unknown_table: ...`."""
        return f"{self.code}: {self.message}"


class SettingsError(ActitoDidomiError, ConfigurationError):
    """Settings and the account they point at don't fit together."""


class InvalidSettingsError(SettingsError, ConfigValidationError):
    """Settings fail their checks.

    Args:
        errors: One line per problem, which may begin with a code of its own; values of secret
            settings are never shown.
        schema: JSON schema of the settings.
    """

    def __init__(self, errors: Sequence[str], schema: Mapping[str, Any] | None = None) -> None:
        super().__init__(codes.INVALID_SETTING, "Config validation failed")
        self.errors = [
            line if _CODED.match(line) else f"{codes.INVALID_SETTING}: {line}" for line in errors
        ]
        self.schema = dict(schema or {})


class InvalidMappingError(SettingsError):
    """A mapping can't be read, or is ambiguous."""


class BadInputError(ActitoDidomiError, DataError):
    """A file or record of the source is broken."""


class ApiError(ActitoDidomiError, FatalAPIError):
    """A request to an API failed."""


class AuthenticationError(ApiError):
    """The API refuses the credentials."""

    def __init__(self, message: str) -> None:
        super().__init__(codes.CREDENTIALS_REFUSED, message)


class RequestRejectedError(ApiError):
    """The API refuses this request for good.

    Attributes:
        status: HTTP status; None for a row of an import that was refused.
        body: The response as it came, at most 2,000 characters. It may repeat personal data:
            keep it out of logs.
    """

    def __init__(self, message: str, *, status: int | None, body: str) -> None:
        super().__init__(codes.REQUEST_REFUSED, message)
        self.status = status
        self.body = body

    @property
    def is_record_level(self) -> bool:
        """Whether it concerns what was sent only; a refused key, say, would end the run."""
        return self.status in _ABOUT_WHAT_WAS_SENT


class UnavailableError(ApiError):
    """No usable response came, after all attempts.

    Attributes:
        status: HTTP status of the last response; None if there was none.
        retry_after: Seconds that the last response asks to wait; None if it doesn't.
    """

    def __init__(
        self, message: str, *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(codes.API_UNAVAILABLE, message)
        self.status = status
        self.retry_after = retry_after


class UnexpectedResponseError(UnavailableError):
    """A response of another form than expected: it shows nothing, and confirms nothing."""

    def __init__(self, message: str, *, status: int = 200) -> None:
        super().__init__(message, status=status)
        self.code = codes.UNEXPECTED_RESPONSE


class ImportQuotaExceededError(ApiError):
    """The day's bulk imports are used up, and single requests would take too long.

    Attributes:
        deferred: How many changes wait for the next run.
    """

    def __init__(self, message: str, *, deferred: int) -> None:
        super().__init__(codes.IMPORT_QUOTA_EXCEEDED, message)
        self.deferred = deferred


class StoppedError(ApiError):
    """The request was given up because the process is shutting down."""

    def __init__(self, message: str) -> None:
        super().__init__(codes.STOPPED, message)


class TooManyRejectsError(ActitoDidomiError, FatalSyncError):
    """More was rejected than `max_rejects` allows."""

    def __init__(self, message: str) -> None:
        super().__init__(codes.TOO_MANY_REJECTS, message)


class DirectionInUseError(ActitoDidomiError, FatalSyncError):
    """Another run of the same direction is still writing."""

    def __init__(self, message: str) -> None:
        super().__init__(codes.DIRECTION_IN_USE, message)


class OptOutsRejectedError(ActitoDidomiError, FatalSyncError):
    """Everything is written except opt-outs that could not be; they are stored as rejects."""

    exit_code = 3

    def __init__(self, message: str) -> None:
        super().__init__(codes.OPT_OUTS_REJECTED, message)


class OptOutsOwedError(ActitoDidomiError, FatalSyncError):
    """The run has done its work, but opt-outs are owed: they could not be written yet."""

    exit_code = 3

    def __init__(self, message: str) -> None:
        super().__init__(codes.OPT_OUTS_OWED, message)


class ChangesDeferredError(ActitoDidomiError, FatalSyncError):
    """Everything is written but what waits for a decision; opt-outs are written."""

    exit_code = 4


def exit_status_of(error: BaseException) -> int:
    """Return the exit status of a plugin that ends with an error."""
    return error.exit_code if isinstance(error, ActitoDidomiError) else 1


class MistakeFoundError(ActitoDidomiError, FatalSyncError):
    """The run has done its work, and shows that the settings are wrong; STATE stays."""

    exit_code = 5


def how_to_install(extra: str) -> str:
    """Return what to do if the packages of an extra are missing, with and without Meltano."""
    return (
        f"pip install 'actito-didomi[{extra}]' (in a clone: pip install -e '.[{extra}]'); with "
        f"Meltano add [{extra}] to `pip_url` in the definition of the plugin, and run meltano "
        "install"
    )


_OTHER_CODES: tuple[tuple[type[BaseException], Code], ...] = (
    (ConfigValidationError, codes.INVALID_SETTING),
    (MissingKeyPropertiesError, codes.KEY_MISSING),
    (RecordsWithoutSchemaException, codes.SCHEMA_MISSING),
    (SingerError, codes.INVALID_MESSAGE),
    (BrokenPipeError, codes.OUTPUT_CLOSED),
)


def code_of(error: BaseException) -> Code:
    """Return the code of any error: of this project, of the SDK, or `unexpected_error`."""
    if isinstance(error, ActitoDidomiError):
        return error.code
    return next(
        (code for kind, code in _OTHER_CODES if isinstance(error, kind)), codes.UNEXPECTED_ERROR
    )
