"""Bulk imports: a file, started as an ETL execution and followed to its end.

Documented: the requests that start an execution, multipart bodies, 24 executions per day, 100 MB
per file, CSV without a byte order mark. The form of the responses is inferred; see `_wire`.
"""

from __future__ import annotations

import csv
import io
import logging
import re
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from actito_didomi import codes, privacy
from actito_didomi.actito.session import unexpected
from actito_didomi.errors import (
    RequestRejectedError,
    SettingsError,
    UnavailableError,
    UnexpectedResponseError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.actito.table import TableStructure
    from actito_didomi.http import Parts, Response

logger = logging.getLogger(__name__)

StatedMode = Literal["update", "create_update"]
"""What an import does with unknown people."""
_NOT_THERE = frozenset({403, 404, 405, 501})
ZIP_OVERHEAD = 1_000
"""Bytes that a zip with one file may add to what it holds; generous."""


@dataclass(frozen=True)
class RowError:
    """A row that was not loaded.

    Attributes:
        key: Value of the key attribute; None if only the line is known.
        line: Number of the row, the first below the header being 1; None if only the key is known.
        reason: Actito's words. They may hold personal data.
    """

    key: str | None
    line: int | None
    reason: str


@dataclass(frozen=True)
class Execution:
    """State of an execution.

    Attributes:
        id: Its id.
        finished: Whether it has ended.
        failure: Why it failed as a whole, in Actito's words; None if it didn't.
        has_errors: Whether some rows failed.
        errors: How many rows failed; None if Actito doesn't report it.
        counts: Rows created and updated; None if Actito does not report them.
    """

    id: str
    finished: bool
    failure: str | None
    has_errors: bool
    errors: int | None
    counts: tuple[int, int] | None


class Imports:
    """Start and follow imports into one profile table.

    Args:
        session: Session with Actito.
        structure: The table.
        key: The unique attribute that rows are matched by.
        create: Whether missing profiles are created.
        etl_id: A predefined ETL, which is sent the file only; None for one-shot executions.
        definition: Template of the one-shot definition; None for the one that is shipped.

    Attributes:
        lists_executions: Whether Actito offers a list of executions, as far as is known.
    """

    def __init__(
        self,
        session: ActitoSession,
        structure: TableStructure,
        key: str,
        *,
        create: bool,
        etl_id: str | None = None,
        definition: Mapping[str, Any] | None = None,
    ) -> None:
        self._session = session
        self._structure = structure
        self._key = key
        self._facts = session.facts.imports
        self._paths = session.facts.paths
        self._mode = self._facts.mode(create=create)
        self._etl_id = etl_id
        self._definition = definition or self._facts.definition
        self._entity = {"entity": structure.entity}
        self.lists_executions = True

    def check(self, *, stated: StatedMode | None) -> None:
        """Check that a predefined ETL exists and treats missing people as the settings say.

        Args:
            stated: Its mode, as the settings state it; None if they don't.

        Raises:
            SettingsError: There is no such ETL, it has another mode, or its mode is unknown.
        """
        if self._etl_id is None:
            return
        try:
            body = self._session.request(
                "GET", self._paths.etl, {**self._entity, "etl": self._etl_id}
            ).body
        except RequestRejectedError as error:
            if error.status not in _NOT_THERE or (stated and error.status != 404):  # noqa: PLR2004
                raise
            raise SettingsError(
                codes.UNSUITABLE_ETL,
                f"bulk_etl_id: Actito has no ETL {self._etl_id!r} in entity "
                f"{self._structure.entity!r}, or the key may not see it.",
            ) from None
        mode = self._facts.mode_of(body)
        if mode is None and stated is not None:
            mode = self._facts.mode(create=stated == "create_update")
        if mode is None:
            raise SettingsError(
                codes.UNSUITABLE_ETL,
                f"bulk_etl_id: Actito does not report whether ETL {self._etl_id} creates profiles. "
                "Look it up in Actito, and set bulk_etl_mode to update or create_update.",
            )
        if mode != self._mode:
            raise SettingsError(
                codes.UNSUITABLE_ETL,
                f"bulk_etl_id: ETL {self._etl_id} has the mode {mode}, but "
                f"upsert_mode needs {self._mode}. Change one of them.",
            )

    def start(self, file: Path, columns: Sequence[str]) -> str:
        """Start an import; the request is made once, and not repeated.

        Args:
            file: The zipped CSV. Its name identifies the execution.
            columns: Names of its columns.

        Returns:
            Id of the execution.

        Raises:
            RequestRejectedError: The file or the definition is refused for good.
            UnavailableError: No usable response; with status 429 it was refused for now, else it
                may have been started.
        """
        parts: Parts = {}
        if self._etl_id is None:
            route, values = self._paths.executions, self._entity
            definition = self._facts.fill_definition(
                self._definition, self._structure.id, self._key, self._mode, columns
            )
            parts = {
                self._facts.definition_part: (
                    "definition.json",
                    msgspec.json.encode(definition),
                    "application/json",
                )
            }
        else:
            route, values = self._paths.etl_execution, {**self._entity, "etl": self._etl_id}
        with file.open("rb") as content:

            def make() -> Parts:
                content.seek(0)
                return {self._facts.data_part: (file.name, content, "application/zip"), **parts}

            body = self._session.request("POST", route, values, parts=make, once=True).body
        found = self._facts.id_of(body)
        if found is None:
            raise SettingsError(
                codes.UNEXPECTED_RESPONSE,
                "Actito accepted the file, but the end of the import can't be known. "
                + unexpected(
                    "the import",
                    f"an object with {' or '.join(f'`{name}`' for name in self._facts.ids)}",
                    body,
                )
                + " Or set `write_mode` to single.",
            )
        return found

    def get_execution(self, execution_id: str) -> Execution:
        """Read the state of an execution.

        Raises:
            UnexpectedResponseError: The response doesn't show it.
            ApiError: As `ApiSession.request`.
        """
        body = self._session.request(
            "GET", self._paths.execution, {**self._entity, "execution": execution_id}
        ).body
        if not self._facts.is_execution(body):
            expected = f"an object with `{self._facts.status}`"
            raise UnexpectedResponseError(
                unexpected(f"the execution {execution_id}", expected, body)
            )
        found = body
        return Execution(
            id=execution_id,
            finished=self._facts.is_finished(found),
            failure=self._facts.failure_of(found) if self._facts.is_failed(found) else None,
            has_errors=self._facts.has_errors(found),
            errors=self._facts.error_count(found),
            counts=self._facts.row_counts(found),
        )

    def errors(self, execution_id: str) -> list[RowError] | None:
        """Read the failed rows; return None if Actito does not report which they are.

        The route is inferred, so that it can't be read is no outage either.

        Raises:
            ApiError: As `ApiSession.request`, but for `UnavailableError`.
        """
        try:
            rows = self._list(self._paths.execution_errors, execution=execution_id)
        except UnavailableError as error:
            logger.warning("%s", error)
            rows = None
        if rows is None:
            return None
        facts = self._facts
        return [
            RowError(
                key=None if row.get(facts.error_key) is None else str(row[facts.error_key]),
                line=(
                    row[facts.error_line] - 1
                    if isinstance(row.get(facts.error_line), int)
                    else None
                ),
                reason=privacy.redact(str(row.get(facts.error_message, "no reason given"))),
            )
            for row in rows
        ]

    def find_running(self, name: re.Pattern[str]) -> list[str] | None:
        """Find executions that are not finished, by the name of their file.

        Args:
            name: Searched in the execution's JSON, since its field for the file is unknown.

        Returns:
            Their ids, or None if Actito offers no list of executions.

        Raises:
            UnexpectedResponseError: The response must be a list of executions, and isn't.
            ApiError: As `ApiSession.request`.
        """
        return self._find(name, finished=False)

    def find_by_file(self, file_name: str) -> list[str]:
        """Find the executions that were started with a file, if Actito offers a list.

        Raises:
            UnexpectedResponseError: The response must be a list of executions, and isn't.
            ApiError: As `ApiSession.request`.
        """
        return self._find(re.compile(re.escape(file_name)), finished=True) or []

    def _find(self, name: re.Pattern[str], *, finished: bool) -> list[str] | None:
        listed = self._list(self._paths.executions)
        self.lists_executions = listed is not None
        if listed is None:
            return None
        found = [(self._facts.id_of(execution), execution) for execution in listed]
        if any(number is None for number, _ in found):
            names = " or ".join(f"`{name}`" for name in self._facts.ids)
            expected = f"a list of objects with {names}"
            raise UnexpectedResponseError(unexpected("the executions", expected, listed))
        return [
            number
            for number, execution in found
            if number is not None
            and (finished or not self._facts.is_finished(execution))
            and name.search(msgspec.json.encode(execution).decode())
        ]

    def _list(self, route: str, **values: str) -> list[dict[str, Any]] | None:
        """Read a list of executions or of rows; return None if Actito has no such request.

        Raises:
            UnexpectedResponseError: The response must be a list of objects, and isn't.
            ApiError: As `ApiSession.request`.
        """
        response = self._get_if_offered(route, **values)
        if response is None:
            return None
        found = self._facts.list_of(response.body)
        if found is None:
            names = " or ".join(f"`{name}`" for name in self._facts.lists) or "any name"
            expected = f"a list of objects, or an object with such a list as {names}"
            raise UnexpectedResponseError(
                unexpected("executions of imports", expected, response.body)
            )
        return found

    def _get_if_offered(self, route: str, **values: str) -> Response | None:
        """Read something about executions; return None if Actito has no such request."""
        try:
            return self._session.request("GET", route, {**self._entity, **values})
        except RequestRejectedError as error:
            if error.status in _NOT_THERE:
                return None
            raise


def cell(value: Any) -> str:
    """Return a value as a cell of a CSV file (documented forms; values are converted already)."""
    if value is True:
        return "Y"
    if value is False:
        return "N"
    if isinstance(value, float):
        return format(value, ".15g") if abs(value) < 1e15 else format(value, ".0f")  # noqa: PLR2004
    return str(value)


def row_bytes(cells: Iterable[str]) -> int:
    """Return the maximum number of bytes of a row in a file."""
    total = 2
    for text in cells:
        # Two quotes, each quote in it doubled, and the separator after it.
        total += (len(text) if text.isascii() else len(text.encode())) + text.count('"') + 3
    return total


def write_file(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a zipped CSV file: UTF-8 without a byte order mark, `;`, a header line.

    Rows are streamed: memory holds none of them.

    Raises:
        OSError: The file can't be written.
    """
    # Both characters of the line's end are named, so that a cell holding either is quoted.
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open(path.with_suffix(".csv").name, "w", force_zip64=True) as raw,
        io.TextIOWrapper(raw, encoding="utf-8", newline="") as text,
    ):
        writer = csv.writer(text, delimiter=";", quotechar='"', lineterminator="\r\n")
        writer.writerow(columns)
        writer.writerows(rows)
