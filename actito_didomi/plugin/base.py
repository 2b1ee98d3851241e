"""What all plugins do alike at the command line: read settings leniently, fail without a leak."""

from __future__ import annotations

import io
import logging
import sys
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn

from click.exceptions import Exit
from singer_sdk.exceptions import (
    ConfigValidationError,
    MissingKeyPropertiesError,
    RecordsWithoutSchemaException,
)
from singer_sdk.helpers._classproperty import classproperty
from singer_sdk.plugin_base import PluginBase, _ConfigInput
from singer_sdk.singerlib.exceptions import SingerError
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR

from actito_didomi import codes, privacy
from actito_didomi.errors import (
    ActitoDidomiError,
    InvalidSettingsError,
    SettingsError,
    code_of,
    exit_status_of,
)
from actito_didomi.plugin.config import (
    REFUSED,
    find_invalid,
    find_refused,
    find_unknown,
    normalise,
    read_config_files,
    read_environment,
    read_settings,
    schema_of,
    secret_texts,
)
from actito_didomi.plugin.shutdown import Shutdown
from actito_didomi.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

    import click
    import msgspec
    from singer_sdk.about import AboutInfo

    from actito_didomi.consent.leases import Direction
    from actito_didomi.consent.ledger import Ledger


def read_config_arguments(
    ctx: click.Context, param: click.Option, value: tuple[str, ...]
) -> _ConfigInput:
    """Read the files given with `--config`, later ones over earlier ones.

    `ENV` among them stands for the environment.
    """
    del param
    try:
        files = read_config_files(name for name in value if name != "ENV")
    except ConfigValidationError as error:
        _end_for_settings(logging.getLogger(ctx.command.name), error)
    return _ConfigInput(config=files, parse_env="ENV" in value)


def write_whole_messages() -> None:
    """Make every write to stdout complete.

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
        sys.exit(exit_status_of(error))
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
    """Print what is wrong with the settings, one line each, and end the process.

    The reasons come last: `meltano config test` shows the last line only.
    """
    log.error("Config validation failed")
    for line in error.errors:
        log.error(line)
    sys.exit(1)


class BasePlugin(PluginBase):
    """What taps and targets of this project share.

    Settings are read leniently and checked with care: errors name the setting and what was
    expected, all at once, and never show a secret. Signals end a plugin soon, and never with 0.

    Attributes:
        runtime: Clock, threads, transport and streams; another one runs the plugin under test.
        settings_class: Declares the settings; a field of another struct is a group of them.
        settings: The settings, checked and typed.
        direction: Of the sync that the plugin is a part of.
        shutdown: The request to stop, seen by all parts of the plugin.
    """

    cb_config = staticmethod(read_config_arguments)
    runtime: ClassVar[Runtime] = Runtime()
    settings_class: ClassVar[type[msgspec.Struct]]
    settings: Any
    direction: ClassVar[Direction]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "settings_class" in cls.__dict__:
            cls.config_jsonschema = schema_of(cls.settings_class)

    def __init__(self, **kwargs: Any) -> None:
        self.shutdown = Shutdown(self.runtime)
        self._run: tuple[Ledger, int] | None = None
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
        """Record SIGTERM or SIGINT, and do nothing else in the handler.

        The SDK's handlers may write into the middle of a line or drain again what is being
        drained, print STATE for what was never written, and exit with 0.
        """
        del frame
        self.shutdown.request(signum)

    # Runs

    def record_start(self, ledger: Ledger) -> int:
        """Record in the ledger that this run has begun; return its id.

        Raises:
            SettingsError: The database fails.
        """
        number = ledger.start_run(self.name, self.direction)
        self._run = ledger, number
        return number

    def record_end(self, outcome: str, exit_status: int, counts: Mapping[str, Any]) -> None:
        """Record in the ledger how this run ends, if its start is recorded; once.

        Args:
            outcome: How it ends, in words.
            exit_status: Exit status of the plugin.
            counts: The counts of the run, as JSON has them; without personal data.
        """
        if self._run is None:
            return
        (ledger, number), self._run = self._run, None
        try:
            ledger.end_run(number, outcome, exit_status, counts)
        except SettingsError as error:
            self.logger.warning("The end of this run isn't recorded in the ledger: %s", error)

    # Settings

    @classproperty
    def _env_var_config(cls) -> dict[str, Any]:  # noqa: N805
        """Settings from the environment: the SDK's own reading names no setting in its errors."""
        return read_environment(cls.full_schema(), cls._env_var_prefix)

    @classmethod
    def full_schema(cls) -> dict[str, Any]:
        """Return the JSON schema of all settings, those of the SDK among them."""
        cls.append_builtin_config(cls.config_jsonschema)
        return cls.config_jsonschema

    @classmethod
    def append_builtin_config(cls, config_jsonschema: dict[str, Any]) -> None:
        """Add the settings of the SDK that have a meaning here, as advanced ones."""
        properties = config_jsonschema["properties"]
        own = list(properties)
        cls.append_sdk_config(config_jsonschema)
        for name in set(properties).difference(own):
            properties[name] = {**properties[name], "advanced": True}
        for name in REFUSED:
            properties.pop(name, None)

    @classmethod
    def append_sdk_config(cls, config_jsonschema: dict[str, Any]) -> None:
        """Add the settings of the SDK."""
        super().append_builtin_config(config_jsonschema)

    @classmethod
    def _get_about_info(cls) -> AboutInfo:
        """Return what `--about` shows, with the description on one line.

        The SDK's Markdown takes the indentation of a second paragraph for that of the whole page.
        """
        info = super()._get_about_info()
        info.description = " ".join((info.description or "").split())
        return info

    @classmethod
    def unfold_settings(cls, config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Bring settings to their flat form before they are checked.

        Returns:
            The flat settings, and one line per problem.
        """
        return config, []

    def find_problems(self) -> list[str]:
        """Check the typed settings for what a JSON schema can't say.

        Returns:
            One line per problem, with what to do.
        """
        return []

    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        """Check all settings, fill in defaults, and type them.

        Raises:
            InvalidSettingsError: Settings do not fit their schema; or, with `raise_errors`, a
                plugin found another problem.
        """
        schema = self.full_schema()
        flat, errors = self.unfold_settings(self._config)
        self._config = normalise(flat, schema)
        privacy.protect(secret_texts(self._config, schema))
        for line in find_unknown(self._config, schema):
            self.logger.warning("%s", line)
        errors += find_refused(self._config)
        found = DEFAULT_JSONSCHEMA_VALIDATOR(schema).iter_errors(self._config)
        errors += find_invalid(self._config, found, schema, self._env_var_prefix)
        if errors:
            raise InvalidSettingsError(errors, schema)
        self.settings = read_settings(self.settings_class, self._config)
        errors = self.find_problems()
        if errors and raise_errors:
            raise InvalidSettingsError(errors, schema)
        return errors
