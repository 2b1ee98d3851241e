"""The one sink class: it checks records and passes them to the target."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Protocol

from jsonschema import ValidationError
from singer_sdk.exceptions import InvalidRecord, MissingKeyPropertiesError
from singer_sdk.sinks import Sink

from actito_didomi import codes
from actito_didomi.consent.records import shape_of
from actito_didomi.errors import SettingsError, how_to_install
from actito_didomi.plugin.config import expectation

if TYPE_CHECKING:
    import jsonschema_rs

    from actito_didomi.codes import Code


class RecordTarget(Protocol):
    """What a sink needs of its target."""

    def collect(
        self, sink: ConsentSink, record: dict[str, Any], invalid: tuple[Code, str] | None
    ) -> None:
        """Read one record; `invalid` is what is wrong with it, if anything."""


class ConsentSink(Sink):
    """Checks the records of one stream; nothing is written from here.

    All streams share the target's collector, since the SDK drains sinks of different streams at
    the same time, and after a change of SCHEMA in another order than their records came.
    """

    def __init__(self, target: Any, **kwargs: Any) -> None:
        super().__init__(target=target, **kwargs)
        self._target: RecordTarget = target
        self.declares_consent = shape_of(self.original_schema.get("properties") or {}) is not None
        self._invalid: tuple[Code, str] | None = None
        self._compiled: jsonschema_rs.Validator | None = None
        if self._validator is not None:
            self._compiled = _compile(self.schema)

    @property
    def validates(self) -> bool:
        """Whether records are checked against the schema of their stream."""
        return self._validator is not None

    def accepts(self, record: dict[str, Any]) -> bool:
        """Return whether a record fits the schema, without what is wrong with it."""
        return self._compiled is not None and self._compiled.is_valid(record)

    @property
    def is_full(self) -> bool:
        """Never: the collector decides when to write."""
        return False

    def process_record(self, record: dict[str, Any], context: dict[str, Any]) -> None:
        """Pass a record to the target, with what is wrong with it, if anything."""
        del context
        self._target.collect(self, record, self._invalid)

    def process_batch(self, context: dict[str, Any]) -> None:
        """Do nothing: the collector writes."""

    def _validate_and_parse(self, record: dict[str, Any]) -> dict[str, Any]:
        """Check a record against the schema, keeping what is wrong for the collector.

        The SDK would print the record and end the run; here it becomes a reject.
        """
        self._invalid = None
        if self._validator is not None and not self.accepts(record):
            try:
                self._validator.validate(record)
            except InvalidRecord as error:
                self._invalid = codes.SCHEMA_MISMATCH, _what_is_wrong(error)
        return record

    def _singer_validate_message(self, record: dict[str, Any]) -> None:
        """Check that the key properties are there.

        Raises:
            MissingKeyPropertiesError: One is missing from a record of a stream without consents.
        """
        missing = [key for key in self._key_properties if key not in record]
        if not missing:
            return
        if not self.declares_consent:
            raise MissingKeyPropertiesError(
                f"A record of stream {self.stream_name!r} lacks its key properties: "
                f"{', '.join(missing)}."
            )
        self._invalid = (
            codes.KEY_MISSING,
            f"The record lacks the key properties of its stream: {', '.join(missing)}.",
        )


def _compile(schema: dict[str, Any]) -> jsonschema_rs.Validator | None:
    """Compile a JSON schema; return None if the SDK's own validator must do.

    Raises:
        SettingsError: The package that compiles is not installed.
    """
    try:
        import jsonschema_rs  # noqa: PLC0415 - an extra
    except ImportError:
        raise SettingsError(
            codes.MISSING_PACKAGE,
            "validate_records is set, but the package jsonschema-rs is not installed. Leave "
            f"validate_records off, or install the extra `validate`: {how_to_install('validate')}.",
        ) from None
    with contextlib.suppress(jsonschema_rs.ValidationError, ValueError):
        return jsonschema_rs.validator_for(schema, validate_formats=True)
    return None


def _what_is_wrong(error: InvalidRecord) -> str:
    cause = error.__cause__
    if not isinstance(cause, ValidationError):
        return "The record does not fit its stream's schema."
    where = ".".join(str(part) for part in cause.absolute_path) or "the record"
    return f"The record does not fit its stream's schema: {where}: {expectation(cause)}"
