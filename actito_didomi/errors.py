"""The errors of this project, in one family.

::

    ActitoDidomiError                   anything a user can act upon; holds no personal data
    ├── MappingError                    a mapping can't be read, or is ambiguous
    ├── BadInputError                   a file or record of the source is broken
    ├── ConfigurationError              settings and the account they point at don't fit
    ├── ApiError                        a request failed
    │   ├── AuthenticationError         the credentials are refused
    │   ├── RequestRejectedError        this request is refused for good (400, 403, 404, ...)
    │   ├── UnavailableError            no usable response, after all attempts
    │   ├── ImportQuotaExceededError    no import is left today, single requests take too long
    │   └── StoppedError                given up because the process is shutting down
    ├── TooManyRejectsError             the run stops: its configuration is plainly wrong
    └── OptOutsRejectedError            all is written but opt-outs that the API refused

Every text says what was found, what was expected and what to do, and is fit for a log: people
appear as a short hash (`actito_didomi.privacy.hash_person`), secrets never.
"""

from __future__ import annotations

_ABOUT_WHAT_WAS_SENT = frozenset({400, 403, 404, 406, 409, 410, 413, 414, 415, 422})


class ActitoDidomiError(Exception):
    """Base of all errors of this project.

    Attributes:
        exit_code: Exit status of a plugin that ends with this error.
    """

    exit_code = 1


class MappingError(ActitoDidomiError):
    """A mapping can't be read, or reads two ways."""


class BadInputError(ActitoDidomiError):
    """A file or record of the source is broken."""


class ConfigurationError(ActitoDidomiError):
    """Settings and the account they point at don't fit together."""


class ApiError(ActitoDidomiError):
    """A call to an API failed."""


class AuthenticationError(ApiError):
    """The API refuses the credentials."""


class RequestRejectedError(ApiError):
    """The API refuses this call for good.

    Attributes:
        status: HTTP status; None where it is a row of an import that was refused.
        body: The answer as it came, at most 2,000 characters. It may repeat personal data:
            keep it out of logs.
    """

    def __init__(self, message: str, *, status: int | None, body: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = body

    @property
    def is_record_level(self) -> bool:
        """Whether it concerns what was sent only; a refused key, say, would end the run."""
        return self.status in _ABOUT_WHAT_WAS_SENT


class UnavailableError(ApiError):
    """No usable answer came, after all retries.

    Attributes:
        status: HTTP status of the last answer; None where there was none.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ImportQuotaExceededError(ApiError):
    """The day's bulk imports are used up, and single calls would take too long.

    Attributes:
        deferred: How many changes wait for the next run.
    """

    def __init__(self, message: str, *, deferred: int) -> None:
        super().__init__(message)
        self.deferred = deferred


class StoppedError(ApiError):
    """The call was given up because the process is shutting down."""


class TooManyRejectsError(ActitoDidomiError):
    """More was refused than `max_rejects` allows."""


class OptOutsRejectedError(ActitoDidomiError):
    """Everything is written but opt-outs that could not be; they are stored as rejects."""

    exit_code = 3
