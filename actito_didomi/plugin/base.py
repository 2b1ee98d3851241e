"""What all plugins do alike at the command line: read settings leniently, fail without a leak."""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import re
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn

import json5
import msgspec
from click.exceptions import Exit
from singer_sdk import typing as th
from singer_sdk.exceptions import (
    ConfigValidationError,
    MissingKeyPropertiesError,
    RecordsWithoutSchemaException,
)
from singer_sdk.plugin_base import JSONSchemaValidator, PluginBase, _ConfigInput
from singer_sdk.singerlib.exceptions import SingerError

from actito_didomi import codes, privacy
from actito_didomi.errors import ActitoDidomiError, InvalidSettingsError, code_of
from actito_didomi.http import RetryPolicy
from actito_didomi.plugin.shutdown import Shutdown
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import FrameType

    import click
    from singer_sdk.about import AboutInfo

logger = logging.getLogger(__name__)


RETRY_SETTINGS: tuple[th.Property[Any], ...] = (
    th.Property(
        "request_timeout",
        th.NumberType(exclusive_minimum=0),
        default=60,
        title="Timeout (s)",
        description="Seconds to wait for an answer. An API may throttle by slowness.",
    ),
    th.Property(
        "retry_tries",
        th.IntegerType(minimum=1),
        default=5,
        title="Tries",
        description="Fewest tries of a call before the run fails.",
    ),
    th.Property(
        "retry_seconds",
        th.NumberType(minimum=0),
        default=300,
        title="Time for tries (s)",
        description="Shortest time to go on trying, in seconds. `retry_tries` and this must both "
        "be used up.",
    ),
    th.Property(
        "retry_max_wait",
        th.NumberType(exclusive_minimum=0),
        default=60,
        title="Longest pause (s)",
        description="Longest pause between two tries, in seconds. Pauses double from one second.",
    ),
)
"""Settings on waiting and trying again, the same for every plugin that calls an API."""


def read_retry(config: Mapping[str, Any]) -> RetryPolicy:
    """Turn the checked `retry_...` settings into a policy."""
    return RetryPolicy(
        tries=config["retry_tries"],
        seconds=float(config["retry_seconds"]),
        longest_wait=float(config["retry_max_wait"]),
    )


def read_lenient_json(text: str, source: str) -> dict[str, Any]:
    """Read a JSON object; trailing commas and comments, as in published examples, do no harm.

    Args:
        text: The text.
        source: Where it came from, for the message.

    Raises:
        ConfigValidationError: It can't be read. The message names the place, never the text: it
            may hold a key.
    """
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        try:
            value = json5.loads(text)
        except ValueError as error:
            place = re.search(r"<string>:(\d+)", str(error))
            raise config_error(
                [
                    f"{source} is no JSON"
                    + (f"; look at line {place[1]}" if place else "")
                    + ". Expected an object of settings."
                ]
            ) from None
    if not isinstance(value, dict):
        raise config_error([f"{source} holds no JSON object of settings."])
    return value


def config_error(errors: list[str], schema: Mapping[str, Any] | None = None) -> Exception:
    """Make the SDK's error for wrong settings, which its command line prints one a line."""
    return InvalidSettingsError(errors, schema)


def read_config_arguments(
    ctx: click.Context, param: click.Option, value: tuple[str, ...]
) -> _ConfigInput:
    """Read the files given with `--config`, later ones over earlier ones.

    `ENV` among them stands for the environment.
    """
    del ctx, param
    config: dict[str, Any] = {}
    try:
        for name in value:
            if name == "ENV":
                continue
            path = Path(name)
            if not path.is_file():
                raise config_error([f"--config: there is no file {name}."])
            config |= read_lenient_json(path.read_text(encoding="utf-8"), f"--config {name}")
    except ConfigValidationError as error:
        _end_for_settings(logger, error)
    return _ConfigInput(config=config, parse_env="ENV" in value)


def read_numbers(config: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Turn texts into numbers where a setting is one.

    Settings from the environment are texts; the SDK converts whole numbers and booleans only.
    """
    result = dict(config)
    for name, value in config.items():
        kinds = schema.get("properties", {}).get(name, {}).get("type", ())
        if isinstance(value, str) and "number" in kinds:
            with contextlib.suppress(ValueError):
                result[name] = float(value)
    return result


def check_against_schema(
    config: Mapping[str, Any], schema: Mapping[str, Any], errors: Iterable[Any]
) -> list[str]:
    """Word the SDK's findings about settings, and look for misspelt ones.

    Args:
        config: The settings.
        schema: Their JSON schema.
        errors: What the JSON-schema validator found.

    Returns:
        A line an error. Values are never shown: they may be secrets.
    """
    lines = []
    for error in errors:
        where = ".".join(str(part) for part in error.absolute_path) or "settings"
        lines.append(f"{where}: {expectation(error)}")
    known = list(schema.get("properties", {}))
    for name in config:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            logger.warning("There is no setting %r; it is ignored.%s", name, hint)
    return lines


def expectation(error: Any) -> str:
    """Word what a JSON-schema validator found, without the value it found it in."""
    kind, expected = error.validator, error.validator_value
    if kind == "type":
        names = expected if isinstance(expected, list) else [expected]
        found = {dict: "object", list: "array", str: "string", bool: "boolean"}.get(
            type(error.instance), type(error.instance).__name__
        )
        return f"expected {' or '.join(n for n in names if n != 'null')}, found {found}."
    if kind == "enum":
        return f"expected one of {', '.join(map(str, expected))}."
    if kind == "required":
        missing = [n for n in expected if n not in error.instance]
        return f"{', '.join(missing)} missing."
    words = {"minimum": "at least", "maximum": "at most", "exclusiveMinimum": "more than"}
    if kind in words:
        return f"expected {words[kind]} {expected}."
    return f"does not fit the rule {kind}: {expected}."


def write_whole_messages() -> None:
    """See to it that a write to stdout is carried out to its end.

    With `PYTHONUNBUFFERED`, as is usual in containers, Python writes to the pipe only once and
    leaves out what a signal cut off: half a message.
    """
    if isinstance(getattr(sys.stdout, "buffer", None), io.RawIOBase):
        sys.stdout = open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def run_safely(plugin: str, main: Callable[[], None]) -> None:
    """Run a plugin so that an error ends it with a clear line and no personal data.

    An error of this project is shown by its text; an unexpected one by its type and where it came
    from, without values.
    """
    log = logging.getLogger(plugin)
    privacy.install()
    try:
        main()
    except Exit:
        raise  # how click ends a command
    except ConfigValidationError as error:
        _end_for_settings(log, error)
    except BrokenPipeError:
        log.error(  # noqa: TRY400
            "%s: the downstream process has closed its input.", codes.OUTPUT_CLOSED
        )
        sys.stderr.flush()
        sys.exit(1)
    except ActitoDidomiError as error:
        log.error("%s", privacy.describe_exception(error))  # noqa: TRY400
        sys.exit(error.exit_code)
    except (SingerError, RecordsWithoutSchemaException, MissingKeyPropertiesError) as error:
        # Texts of our own reader and sinks, and of the SDK where they name streams and keys only.
        log.error("%s: %s", code_of(error), error)  # noqa: TRY400
        sys.exit(1)
    except Exception as error:  # noqa: BLE001
        log.error(  # noqa: TRY400
            "%s: values are left out on purpose.\n%s",
            codes.UNEXPECTED_ERROR,
            privacy.safe_traceback(error),
        )
        sys.exit(1)


def _end_for_settings(log: logging.Logger, error: ConfigValidationError) -> NoReturn:
    """Print what is wrong with the settings, a line each, and end the process."""
    for line in error.errors:
        log.error(line)
    log.error("Config validation failed")
    sys.exit(1)


class BasePlugin(PluginBase):
    """What taps and targets of this project share.

    Settings are read leniently and checked with care: errors name the setting and what was
    expected, all at once, and never show a value. Signals end a plugin soon, and never with 0.

    Attributes:
        runtime: Clock, threads, transport and streams; another one runs the plugin under test.
        shutdown: Tells all parts of the plugin when to stop.
    """

    cb_config = staticmethod(read_config_arguments)
    runtime: ClassVar[Runtime] = Runtime()

    def __init__(self, **kwargs: Any) -> None:
        self.shutdown = Shutdown(self.runtime)
        super().__init__(**kwargs)

    @classmethod
    def invoke(
        cls,
        *,
        about: bool = False,
        about_format: str | None = None,
        config: _ConfigInput | None = None,
        **files: IO[str] | None,
    ) -> None:
        """Run the command line; `files` are what the kind of plugin is given to read."""
        if about:
            cls.print_about(about_format)
            return
        cls.print_version(print_fn=cls.logger.info)
        write_whole_messages()
        run_safely(cls.name, lambda: cls.run(config or _ConfigInput(), **files))

    @classmethod
    def run(cls, given: _ConfigInput, **files: IO[str] | None) -> None:
        """Make the plugin and do its work."""
        raise NotImplementedError

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        """Take note of SIGTERM or SIGINT, and do nothing else in the handler.

        The SDK's handlers may write into the middle of a line or drain again what is being
        drained, print STATE for what was never written, and exit with 0.
        """
        del frame
        self.shutdown.request(signum)

    @classmethod
    def _get_about_info(cls) -> AboutInfo:
        """Return what `--about` shows, with the description on one line.

        The SDK's Markdown takes the indentation of a second paragraph for that of the whole page.
        """
        info = super()._get_about_info()
        info.description = " ".join((info.description or "").split())
        return info

    @classmethod
    def unfold_settings(cls, config: dict[str, Any]) -> dict[str, Any]:
        """Bring settings to their flat form before they are checked."""
        return {name: value for name, value in config.items() if value is not None}

    @classmethod
    def find_secrets(cls, config: Mapping[str, Any]) -> list[str]:
        """Collect the texts among the settings that must never be shown."""
        raise NotImplementedError

    @classmethod
    def find_problems(cls, config: dict[str, Any]) -> list[str]:
        """Check what a JSON schema can't say; a line a problem, with what to do."""
        raise NotImplementedError

    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        """Check all settings, and fill in defaults."""
        schema = self.config_jsonschema
        self.append_builtin_config(schema)
        self._config = read_numbers(self.unfold_settings(self._config), schema)
        privacy.protect(self.find_secrets(self._config))
        found = JSONSchemaValidator(schema).iter_errors(self._config)
        errors = check_against_schema(self._config, schema, found)
        if not errors:
            errors = self.find_problems(self._config)
        if errors and raise_errors:
            raise config_error(errors, schema)
        return errors
