"""Personal data and secrets stay out of logs.

People appear as a short hash. Secrets are replaced wherever they would be printed. Exceptions of
other libraries are shown by type and place only, since their texts may hold any value.
"""

from __future__ import annotations

import hashlib
import logging
import re
import traceback
from typing import TYPE_CHECKING, Any

from singer_sdk.exceptions import ConfigValidationError

from actito_didomi.errors import ActitoDidomiError, code_of

if TYPE_CHECKING:
    from collections.abc import Iterable

_MASK = "***"
_SHORTEST_SECRET = 6
_NAME = re.compile(r"[A-Za-z_$][A-Za-z_$.-]{0,39}\d{0,2}", re.ASCII)
"""What may be the name of a field; a key of another form may be that of a person."""
_MOST_NAMES = 12
_secrets: set[str] = set()


def hash_person(person: str, key: bytes) -> str:
    """Return what a person is called in logs: 10 hexadecimal digits, keyed.

    Args:
        person: The person's key.
        key: Key of the hash, at most 32 bytes: without it nobody can try out whose hash it is.
    """
    return hashlib.blake2s(person.encode(), key=key, digest_size=5).hexdigest()


def protect(secrets: Iterable[str | None]) -> None:
    """Replace these texts in every log line from now on.

    Args:
        secrets: API keys and tokens. Texts of fewer than 6 characters are ignored: replacing them
            would make logs unreadable and hide no secret.
    """
    _secrets.update(s for s in secrets if s and len(s) >= _SHORTEST_SECRET)


def redact(text: str) -> str:
    """Replace every protected secret in a text."""
    for secret in _secrets:
        if secret in text:
            text = text.replace(secret, _MASK)
    return text


def shape_of(body: Any) -> str:
    """Describe the form of a response for a message: the names of fields, never a value.

    Returns:
        Such as `an object with items, page` or `a list of strings`.
    """
    if isinstance(body, dict):
        names = sorted(name for name in map(str, body) if _NAME.fullmatch(name))
        shown = names[:_MOST_NAMES]
        if others := len(body) - len(shown):
            shown.append(f"{others} other{'s' if others > 1 else ''}")
        return f"an object with {', '.join(shown) or 'no key'}"
    if isinstance(body, list):
        kinds = sorted({_KINDS.get(type(item), "others") for item in body})
        if kinds == ["objects"]:
            names = sorted({name for item in body for name in map(str, item)})
            return f"a list of objects with {shape_of(dict.fromkeys(names)).partition(' with ')[2]}"
        return f"a list of {' and '.join(kinds)}" if kinds else "an empty list"
    return "empty" if body is None else _ALONE.get(type(body), "something else")


_KINDS = {
    dict: "objects",
    list: "lists",
    str: "strings",
    bool: "booleans",
    int: "numbers",
    float: "numbers",
    type(None): "nulls",
}
_ALONE = {str: "a string", bool: "a boolean", int: "a number", float: "a number"}


def describe_exception(error: BaseException) -> str:
    """Describe an error for a log.

    Returns:
        Code and text of an error of this project or of a failed settings check; of any other error
        its type only, since its text may hold a record.
    """
    if isinstance(error, ActitoDidomiError):
        return redact(str(error))
    if isinstance(error, ConfigValidationError):
        return redact(f"{code_of(error)}: {error}")
    if isinstance(error, OSError) and error.strerror:
        return redact(f"{type(error).__name__}: {error.strerror}")
    return type(error).__name__


def safe_traceback(error: BaseException) -> str:
    """Return where an error came from: files, lines and functions, without any value."""
    lines = []
    seen: BaseException | None = error
    while seen is not None:
        frames = traceback.extract_tb(seen.__traceback__)
        lines += [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
        lines.append(describe_exception(seen))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
        if seen is not None:
            lines.append("caused by:")
    return "\n".join(lines)


class PrivacyFilter(logging.Filter):
    """Remove secrets from log lines, and values from tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the line in place; never drops one."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += "\n" + safe_traceback(record.exc_info[1])
        record.msg, record.args = redact(message), ()
        record.exc_info = record.exc_text = None
        return True


def install() -> None:
    """Filter every handler of every logger, and quiet libraries that log URLs of requests."""
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if not any(isinstance(f, PrivacyFilter) for f in handler.filters):
            handler.addFilter(PrivacyFilter())
    # URLs of requests name people: urllib3 logs each at debug level, and some in warnings.
    for name in ("urllib3", "requests", "asyncio", "fsspec", "s3fs", "gcsfs", "botocore"):
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.getLogger("pyrate_limiter").setLevel(logging.WARNING)
