"""Settings: those that several plugins share, and how all are read, checked and typed.

A plugin's settings are one `msgspec.Struct`. A field declared with `setting(...)` is a setting of
its own; a field of another struct is a group, whose settings stand in the same flat configuration.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar

import msgspec
from dotenv import load_dotenv

from actito_didomi.consent.mapping import Mapping
from actito_didomi.errors import InvalidSettingsError
from actito_didomi.lines import MAX_LINE_BYTES
from actito_didomi.settings import NO_BLANKS, setting

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Mapping as MappingABC

    from actito_didomi.consent.config import LedgerSettings

Settings = TypeVar("Settings", bound=msgspec.Struct)
Schema = dict[str, Any]

Mappings = Annotated[
    tuple[Mapping, ...],
    setting(
        "Mappings",
        "Which consent of Didomi belongs to which subscription or attribute of Actito. `id` names "
        "the subscription (or, with `type: attribute`, the attribute), `value` the consent path, "
        "flattened with `_`; `invert` swaps true and false; `path` decides an ambiguous name. "
        "Required, here or in `connector`; tap-actito needs it for `consent_events` only.",
    ),
]
Connector = Annotated[
    str,
    setting(
        "Didomi connector",
        "Didomi's Actito connector object, pasted unchanged: as text, or in a configuration file "
        "as an object. Settings given by their own name win. The object may also be the "
        "configuration file itself.",
        secret=True,
    ),
]
StorageOptions = Annotated[
    dict[str, Any],
    setting(
        "Storage options",
        "Arguments of the file system that exports or BATCH files are read from, as fsspec takes "
        "them.",
        secret=True,
        advanced=True,
    ),
]
OnBadLine = Annotated[
    Literal["fail", "skip"],
    setting(
        "On a broken line",
        "What to do with a broken line or file of an export: `fail` lets the run fail, with the "
        "bookmark before it; `skip` counts and reports it, and continues. With a ledger "
        "such lines are kept there as rejects.",
        advanced=True,
    ),
]
SkipDelegates = Annotated[
    tuple[str, ...],
    setting(
        "Delegates to skip",
        "What these delegates chose came from Actito, so it is no choice made in Didomi: "
        "target-actito skips such events, and target-didomi posts opt-outs over them. The same in "
        "both targets.",
        advanced=True,
    ),
]
RejectsPath = Annotated[
    str,
    setting(
        "Rejects file",
        "JSON Lines file of the changes that could not be written, with the reason. It holds "
        "personal data; only its owner can read it.",
    ),
]


MaxLineBytes = Annotated[
    int,
    setting(
        "Maximum line (bytes)",
        "Longest line of the input or of a file that is decoded, in bytes; a longer one is "
        "rejected, or reported as broken.",
        advanced=True,
        ge=65_536,
    ),
]
MaxCompressionRatio = Annotated[
    float,
    setting(
        "Maximum compression ratio",
        "How many times larger than its compressed form the content of a file may be, after its "
        "first MiB. A file that claims more is not read on.",
        advanced=True,
        ge=1,
    ),
]


class TargetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of all targets."""

    max_buffered_people: Annotated[
        int,
        setting(
            "Maximum buffered people",
            "Maximum buffered people. Changes are flushed when this many people are buffered.",
            advanced=True,
            ge=1,
        ),
    ] = 200_000
    flush_interval: Annotated[
        float,
        setting(
            "Flush interval (s)",
            "Maximum time that changes stay buffered, in seconds, also while the tap is idle.",
            advanced=True,
            gt=0,
        ),
    ] = 300
    rejects_path: RejectsPath
    max_rejects: Annotated[
        int,
        setting("Maximum rejects", "A run stops once it has more rejects than this.", ge=0),
    ] = 1000
    report_path: Annotated[
        str | None,
        setting(
            "Report",
            "Where to write the report of the run: a `.json` file, a `.html` page, or a folder, "
            "which exists or ends with `/` and gets both of each run, and `latest.html`.",
        ),
    ] = None
    dry_run: Annotated[
        bool,
        setting(
            "Dry run",
            "Read, look, plan and print what would be written, but write nothing, keep nothing in "
            "the ledger, and emit no STATE.",
        ),
    ] = False
    max_line_bytes: MaxLineBytes = MAX_LINE_BYTES
    shutdown_grace: Annotated[
        float,
        setting(
            "Shutdown grace period (s)",
            "Maximum time from SIGTERM or SIGINT to the end of the process, in seconds.",
            advanced=True,
            gt=0,
        ),
    ] = 30


class HasTargetSettings(Protocol):
    """The settings of any target."""

    @property
    def ledger(self) -> LedgerSettings:
        """Those on the ledger."""

    @property
    def target(self) -> TargetSettings:
        """Those that all targets share."""


def schema_of(settings: type[msgspec.Struct]) -> Schema:
    """Return the flat JSON schema of a plugin's settings, as the SDK takes it."""
    (root,), parts = msgspec.json.schema_components([settings])
    return {"type": "object", "properties": _flatten(settings, _resolve(root, parts))}


def _flatten(settings: type[msgspec.Struct], schema: Schema) -> Schema:
    flat: Schema = {}
    for field in msgspec.structs.fields(settings):
        described = schema["properties"][field.name]
        if group := _group(field):
            flat |= _flatten(group, described)
        else:
            flat[field.name] = described
    return flat


def _group(field: msgspec.structs.FieldInfo) -> type[msgspec.Struct] | None:
    """Return the struct of a field that is a group of settings, rather than one of them."""
    is_group = isinstance(field.type, type) and issubclass(field.type, msgspec.Struct)
    return field.type if is_group else None


def _resolve(node: Any, parts: MappingABC[str, Any]) -> Any:
    """Put definitions in place of references to them, and leave out what says nothing."""
    if isinstance(node, (list, tuple)):
        return [_resolve(item, parts) for item in node]
    if not isinstance(node, dict):
        return node
    node = dict(node)
    if reference := node.pop("$ref", None):
        referred = parts[reference.rpartition("/")[2]]
        named = {"title", "description"}  # of the class
        node = {**{k: v for k, v in referred.items() if k not in named}, **node}
    kinds = [kind for kind in node.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:  # null is the same as not set
        del node["anyOf"]
        node = {**kinds[0], **node}
    if "enum" in node:
        node["type"] = "string"
    if node.get("default", 0) in (None, "", (), [], {}):
        del node["default"]
    return {key: _resolve(value, parts) for key, value in node.items()}


def read_settings(settings: type[Settings], config: MappingABC[str, Any]) -> Settings:
    """Return the typed settings of a checked configuration.

    Args:
        settings: Their declaration.
        config: The flat configuration; other names in it are ignored.
    """
    return msgspec.convert(_nest(settings, config), settings)


def _nest(settings: type[msgspec.Struct], config: MappingABC[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for field in msgspec.structs.fields(settings):
        if group := _group(field):
            nested[field.name] = _nest(group, config)
        elif field.name in config:
            nested[field.name] = config[field.name]
    return nested


def secret_texts(config: MappingABC[str, Any], schema: Schema) -> Iterator[str]:
    """Find all texts of the settings that the schema marks as secret."""
    for name, described in schema["properties"].items():
        if described.get("secret"):
            yield from _texts(config.get(name))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


# Reading


def read_lenient_json(text: str, source: str) -> dict[str, Any]:
    """Read a JSON object as people write it: with trailing commas, comments, a misplaced colon.

    Args:
        text: The text.
        source: Where it came from, for the message.

    Raises:
        InvalidSettingsError: It can't be read. The message names the line, never the text: it
            may hold a key.
    """
    try:
        value = _decode(text)
    except _InvalidJsonError as error:
        raise InvalidSettingsError(
            [f"{source} is not valid JSON{error.place}. It must be an object of settings."]
        ) from None
    if not isinstance(value, dict):
        raise InvalidSettingsError([f"{source} must be a JSON object of settings."])
    return value


class _InvalidJsonError(Exception):
    """A text is not JSON; `place` is ` (line N)`, or empty."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


def _decode(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    import json5  # noqa: PLC0415 - takes a while, and is hardly ever needed

    # Didomi's published example has `"private_api_key:" "KEY"`.
    text = re.sub(r'"(\w+):"(\s*)(?=["\[{\w-])', r'"\1":\2', text)
    try:
        return json5.loads(text)
    except (ValueError, RecursionError) as error:
        place = re.search(r"<string>:(\d+)", str(error))
        raise _InvalidJsonError(f" (line {place[1]})" if place else "") from None


def read_config_files(names: Iterable[str]) -> dict[str, Any]:
    """Read configuration files, later ones over earlier ones.

    Raises:
        InvalidSettingsError: A file can't be read.
    """
    config: dict[str, Any] = {}
    for name in names:
        try:
            content = Path(name).read_bytes()  # which may be a pipe: --config <(...)
        except FileNotFoundError:
            raise InvalidSettingsError([f"--config: there is no file {name}."]) from None
        except OSError as error:
            raise InvalidSettingsError(
                [f"--config: {name} can't be read: {error.strerror}."]
            ) from None
        try:
            text = content.decode(json.detect_encoding(content))
        except UnicodeDecodeError:
            raise InvalidSettingsError([f"--config {name} must be text in UTF-8."]) from None
        config |= read_lenient_json(text, f"--config {name}")
    return config


def read_environment(schema: Schema, prefix: str) -> dict[str, Any]:
    """Read settings from the environment and from `.env` in the working folder.

    A text that can't be read as what its setting must be is kept, for the check to report. Empty
    ones count as not set.

    Args:
        schema: The settings.
        prefix: What the names of variables begin with, such as `TARGET_ACTITO_`.

    Raises:
        InvalidSettingsError: `.env` is not text in UTF-8.
    """
    try:
        load_dotenv(Path.cwd() / ".env")
    except UnicodeDecodeError:
        raise InvalidSettingsError([".env must be text in UTF-8."]) from None
    names = {variable_of(name, prefix): name for name in [*schema["properties"], *REFUSED]}
    config = {}
    for variable, text in os.environ.items():
        if text and (name := names.get(variable)):
            config[name] = read_text(text, schema["properties"].get(name, {}))
    return config


def variable_of(name: str, prefix: str) -> str:
    """Return the environment variable of a setting."""
    return prefix + name.upper().replace("-", "_")


_YES, _NO = frozenset({"true", "1", "yes", "on"}), frozenset({"false", "0", "no", "off"})


def read_text(text: str, schema: Schema) -> Any:
    """Read a text as what a setting must be.

    Returns:
        The value; the text itself where it can't be read.
    """
    kinds = schema.get("type", "string")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "boolean" in kinds:
        return text.lower() in _YES if text.lower() in _YES | _NO else text
    if "integer" in kinds or "number" in kinds:
        return _number(text, whole="integer" in kinds)
    if "array" in kinds or "object" in kinds:
        if schema.get("items") == {"type": "string"} and not text.lstrip().startswith("["):
            return [part.strip() for part in text.split(",")]
        try:
            return _decode(text)
        except _InvalidJsonError:
            return text
    return text


def _number(text: str, *, whole: bool) -> Any:
    try:
        number = float(text)
    except ValueError:
        return text
    if not whole:
        return number
    return int(number) if number.is_integer() else text


# Checking

REFUSED = (
    "flattening_enabled",
    "flattening_max_depth",
    "flattening_max_key_length",
    "flattening_separator",
)
"""Settings of the SDK that would hide opt-outs from a target."""
_EXPECTED = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "number": "a number",
    "object": "an object",
    "string": "a string",
}
_FOUND = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer"}


def normalise(config: MappingABC[str, Any], schema: Schema) -> dict[str, Any]:
    """Bring values to the form that the check and the types expect, and fill in defaults.

    A text is read as what its setting must be (Meltano passes values of the environment as texts),
    whole numbers may be written `5.0`, and null, also inside of an object, is the same as not set;
    so is an empty text, where the setting is not a text itself.
    """
    properties = schema["properties"]
    result = {n: d["default"] for n, d in properties.items() if d.get("default") is not None}
    for name, value in config.items():
        described = schema["properties"].get(name, {})
        if isinstance(value, str) and described.get("type", "string") != "string":
            value = read_text(value, described) if value else None  # noqa: PLW2901
        if isinstance(value, float) and described.get("type") == "integer" and value.is_integer():
            value = int(value)  # noqa: PLW2901
        if value is not None:
            result[name] = _without_nulls(value, described)
    return result


def _without_nulls(value: Any, schema: Any) -> Any:
    if isinstance(value, list) and "items" in schema:
        return [_without_nulls(item, schema["items"]) for item in value]
    if isinstance(value, dict) and (known := schema.get("properties")):
        return {
            key: _without_nulls(part, known.get(key, {}))
            for key, part in value.items()
            if part is not None
        }
    return value


def find_refused(config: MappingABC[str, Any]) -> list[str]:
    """Return one line per setting that must not be used with these plugins."""
    return [
        f"{name}: flattened records would hide opt-outs, so they can't be flattened. Remove this "
        "setting."
        for name in REFUSED
        if name in config
    ]


def find_unknown(config: MappingABC[str, Any], schema: Schema) -> list[str]:
    """Return one line per setting that does not exist, with the one that may be meant."""
    known = list(schema["properties"])
    lines = []
    for name in config:
        if name not in known and name not in REFUSED:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            lines.append(f"Unknown setting {name!r} ignored.{hint}")
    return lines


def find_invalid(
    config: MappingABC[str, Any], errors: Iterable[Any], schema: Schema, prefix: str
) -> list[str]:
    """Return one line per value that does not fit the schema.

    A single value is shown if its setting is not secret. Lists and objects are never shown.

    Args:
        config: The settings.
        errors: What the JSON-schema validator found.
        schema: JSON schema of the settings.
        prefix: What the names of environment variables begin with.
    """

    def named(setting: str, *inner: Any) -> str:
        value = config.get(setting)
        variable = variable_of(setting, prefix)
        text = os.environ.get(variable)
        # Meltano sets the variables of all values: it is named where it may be the source.
        is_source = text is not None and (
            inner or repr(value) == repr(read_text(text, _part(schema, setting)))
        )
        name = f"{setting} (environment variable {variable})" if is_source else setting
        return ", ".join([name, *(f"entry {p + 1}" if isinstance(p, int) else p for p in inner)])

    lines = [
        f"{named(name)}: must be a number."
        for name, value in config.items()
        if isinstance(value, (int, float)) and not _is_finite(value)
    ]
    for error in errors:
        path = list(error.absolute_path) or ["settings"]
        problem = expectation(error)
        if error.validator == "type" and isinstance(error.instance, str) and len(path) == 1:
            problem = _unreadable(error)
        if not _part(schema, path[0]).get("secret"):
            problem = _with_value(problem, error)
        lines.append(f"{named(*path)}: {problem}")
    return lines


def _part(schema: Schema, setting: str) -> Schema:
    part: Schema = schema["properties"].get(setting, {})
    return part


def _unreadable(error: Any) -> str:
    """Return what is wrong with a text that can't be read as what its setting must be."""
    kinds = _listed(error.validator_value)
    must = _must_be(kinds)
    if not {"array", "object"} & set(kinds):
        return f"{must} (also yes/no, on/off, 1/0)." if "boolean" in kinds else f"{must}."
    try:
        _decode(error.instance)
    except _InvalidJsonError as invalid:
        return f"{must} in JSON; the text is not valid JSON{invalid.place}."
    return f"{must} in JSON."


_SHOWN = ("type", "enum", "minimum", "maximum", "exclusiveMinimum")
_MAX_SHOWN = 40


def _with_value(problem: str, error: Any) -> str:
    """Add the value that was found, if it is a single one that can stand in one line."""
    value = error.instance
    if (
        error.validator not in _SHOWN
        or (error.validator == "type" and {"array", "object"} & set(_listed(error.validator_value)))
        or not isinstance(value, (str, bool, int, float))
        or len(text := repr(value)) > _MAX_SHOWN
    ):
        return problem
    return f"{problem.partition(', found ')[0].rstrip('.')}, found {text}."


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def expectation(error: Any) -> str:
    """Return what a JSON-schema validator expected, without the value it found."""
    kind, expected = error.validator, error.validator_value
    if kind == "type":
        return _expected_type(_listed(expected), error.instance)
    if kind == "enum":
        return f"must be one of {', '.join(map(str, expected))}."
    if expected == NO_BLANKS:
        return "must not contain blanks or line breaks."
    if kind == "required":
        return f"{', '.join(name for name in expected if name not in error.instance)} missing."
    if kind == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = ", ".join(sorted(set(error.instance) - set(known)))
        return f"unknown part {unknown}. Known: {', '.join(known)}."
    words = {
        "minimum": f"must be at least {expected}.",
        "maximum": f"must be at most {expected}.",
        "exclusiveMinimum": f"must be more than {expected}.",
        "minLength": "must not be empty.",
        "minItems": "must not be empty.",
        "anyOf": "has none of the forms that are documented for it.",
    }
    return words.get(kind, f"does not fit the rule {kind}: {expected}.")


def _expected_type(kinds: list[str], found: Any) -> str:
    kind = _FOUND.get(type(found), type(found).__name__)
    return f"{_must_be(kinds)}, found {_EXPECTED.get(kind, kind)}."


def _must_be(kinds: list[str]) -> str:
    return "must be " + " or ".join(_EXPECTED[kind] for kind in kinds if kind != "null")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
