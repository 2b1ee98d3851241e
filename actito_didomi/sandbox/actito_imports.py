"""ETL executions of the sandbox's Actito: a file is validated, then loaded, row by row."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
import zlib
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actito_didomi.sandbox import actito_tables as tables
from actito_didomi.sandbox.actito_profiles import Profiles, RefusedError, to_local_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from actito_didomi.runtime import Runtime
    from actito_didomi.sandbox.options import SandboxOptions

_DAY = 86_400.0
_VALIDATION = 0.25
"""Seconds from the request to the first row."""
_SLICE = 500
"""Rows written before other requests are handled."""
_BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
_MODES = frozenset({"CREATE_ONLY", "UPDATE_ONLY", "CREATE_UPDATE"})
_TRUE = frozenset({"y", "yes", "true", "1"})
_FALSE = frozenset({"n", "no", "false", "0"})


@dataclass(frozen=True)
class Definition:
    """The definition of an ETL. The names and the form of its JSON are a guess."""

    id: str | None
    table: dict[str, Any]
    key: str
    mode: str
    separator: str = ";"
    quote: str = '"'
    encoding: str = "UTF-8"
    columns: dict[str, str] | None = None
    empty_clears: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "name": f"ETL {self.id}",
            "profileTableId": self.table["id"],
            "keyColumn": self.key,
            "mode": self.mode,
            "fileFormat": {
                "separator": self.separator,
                "quote": self.quote,
                "encoding": self.encoding,
            },
        }


PREDEFINED = {
    d.id: d
    for d in (
        Definition("501", tables.TABLES[0], "customerId", "UPDATE_ONLY"),
        Definition("502", tables.TABLES[0], "customerId", "CREATE_UPDATE"),
    )
}


@dataclass
class Execution:
    """One execution, from its request to its end."""

    id: str
    definition: Definition
    file_name: str
    rows: list[tuple[int, dict[str, str]]]
    failure: str | None
    requested_at: float
    started: str
    status: str = "IN_PROGRESS"
    ended: str | None = None
    at: int = 0
    created: int = 0
    updated: int = 0
    errors: list[dict[str, Any]] = field(default_factory=list)
    read: int = 0


class Imports:
    """Accepts files, and loads them as time passes.

    Args:
        profiles: The profiles to write.
        options: Speed, limits, and behaviour where Actito's is unknown.
        runtime: Clock, and what ids are drawn from.
    """

    def __init__(self, profiles: Profiles, options: SandboxOptions, runtime: Runtime) -> None:
        self._profiles = profiles
        self._runtime = runtime
        self._options = options
        self._executions: dict[str, Execution] = {}
        self._used: dict[str, deque[float]] = {}

    def clear(self) -> None:
        """Remove all executions, and reset the day's count."""
        self._executions.clear()
        self._used.clear()

    def start(self, definition: Definition, file_name: str, content: bytes) -> Execution:
        """Accept a file.

        Raises:
            RefusedError: It is too large (400), or the day's executions are used up (429).
        """
        if len(content) > self._options.etl_max_bytes:
            raise RefusedError(400, f"The file is larger than {self._options.etl_max_bytes} bytes")
        self._count(definition)
        rows: list[tuple[int, dict[str, str]]] = []
        failure = None
        if self._options.etl_fail_next > 0:
            self._options.etl_fail_next -= 1
            failure = "Validation of the file failed"
        else:
            try:
                rows = list(self._read(definition, content))
            except _InvalidFileError as error:
                failure = str(error)
        execution = Execution(
            id=str(123_000_000 + int(self._runtime.token(6), 16) % 999_999),
            definition=definition,
            file_name=file_name,
            rows=rows,
            failure=failure,
            requested_at=self._runtime.monotonic(),
            started=to_local_text(self._runtime.now()),
            read=len(rows),
        )
        self._executions[execution.id] = execution
        return execution

    def find(self, execution_id: str) -> Execution:
        """Return an execution as it is now.

        Raises:
            RefusedError: There is none (404).
        """
        execution = self._executions.get(execution_id)
        if execution is None:
            raise RefusedError(404, f"No execution {execution_id}")
        return execution

    def all(self) -> list[Execution]:
        """Return the executions, the latest first."""
        return list(reversed(self._executions.values()))

    def work(self) -> bool:
        """Load what is due by now, at most one slice; return whether more is due already."""
        for execution in self._executions.values():
            if execution.ended is None and self._work_on(execution):
                return True
        return False

    @property
    def busy(self) -> bool:
        """Whether an execution is still running."""
        return bool(self._options.etl_rows_per_second) and any(
            e.ended is None for e in self._executions.values()
        )

    def _count(self, definition: Definition) -> None:
        scope = {
            "etl": f"etl {definition.id}",
            "table": f"table {definition.table['id']}",
            "licence": "licence",
        }[self._options.etl_quota_scope]
        used = self._used.setdefault(scope, deque())
        now = self._runtime.monotonic()
        while used and used[0] <= now - _DAY:
            used.popleft()
        if len(used) >= self._options.etl_per_day:
            raise RefusedError(429, "Too many executions today")
        used.append(now)

    def _read(self, definition: Definition, content: bytes) -> Iterator[tuple[int, dict[str, str]]]:
        """Read a file: the first step of an execution.

        Raises:
            _InvalidFileError: It breaks the rules for CSV files.
        """
        content = _unpack(content)
        if content.startswith(_BYTE_ORDER_MARKS):
            raise _InvalidFileError("The file begins with a byte order mark")
        try:
            text = content.decode(definition.encoding)
        except (UnicodeDecodeError, LookupError):
            raise _InvalidFileError(f"The file is not valid {definition.encoding}") from None
        bad = self._options.etl_bad_file
        if bad and bad in text:
            raise _InvalidFileError("The file holds a value that can't be loaded")
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=definition.separator,
            quotechar=definition.quote,
            strict=True,
        )
        try:
            header = next(reader, None)
            if not header:
                raise _InvalidFileError("The file has no header line")
            names = [
                name if definition.columns is None else definition.columns.get(name, "")
                for name in header
            ]
            known = {a["name"] for a in definition.table["attributes"]}
            known |= {s["name"] for s in definition.table["subscriptions"]}
            if unknown := [h for h, n in zip(header, names, strict=True) if n not in known]:
                raise _InvalidFileError(f"Unknown columns: {', '.join(unknown)}")
            if definition.key not in names:
                raise _InvalidFileError(f"The key column {definition.key} is missing")
            for row in reader:
                if len(row) != len(names):
                    raise _InvalidFileError(f"Line {reader.line_num}: wrong number of columns")
                yield reader.line_num, dict(zip(names, row, strict=True))
        except csv.Error as error:
            raise _InvalidFileError(f"Line {reader.line_num}: {error}") from None

    def _work_on(self, execution: Execution) -> bool:
        """Load the rows that are due, at most one slice; return whether more are."""
        speed = self._options.etl_rows_per_second
        if not speed:
            return False
        passed = self._runtime.monotonic() - execution.requested_at - _VALIDATION
        if passed < 0:
            return False
        if execution.failure:
            execution.status, execution.ended = "FAILURE", to_local_text(self._runtime.now())
            return False
        due = min(len(execution.rows), int(passed * speed) + 1)
        stop = min(due, execution.at + _SLICE)
        for line, row in execution.rows[execution.at : stop]:
            try:
                self._load(execution, row)
            except RefusedError as error:
                key = execution.definition.key
                execution.errors.append({"line": line, "key": row[key], "message": error.message})
        execution.at = stop
        if execution.at == len(execution.rows):
            execution.rows = []
            execution.status = "WITH_ERROR" if execution.errors else "SUCCESS"
            execution.ended = to_local_text(self._runtime.now())
            return False
        return stop < due

    def _load(self, execution: Execution, row: dict[str, str]) -> None:
        definition = execution.definition
        table, key = definition.table, definition.key
        bad = self._options.etl_bad_person
        if bad and bad in row[key]:
            raise RefusedError(400, "The row can't be loaded")
        clears = definition.empty_clears
        if clears is None:
            clears = self._options.etl_empty_clears
        attributes, subscriptions = _values(table, row, clears=clears)
        found = self._profiles.find_by(table, key, row[key])
        if found is None:
            if definition.mode != "UPDATE_ONLY":
                self._profiles.create(table, attributes, subscriptions)
                execution.created += 1
        elif definition.mode != "CREATE_ONLY":
            del attributes[key]
            self._profiles.change(table, found, attributes, subscriptions)
            execution.updated += 1

    def as_dict(self, execution: Execution) -> dict[str, Any]:
        """Return an execution in the form of a response (the form is a guess)."""
        response: dict[str, Any] = {
            "id": execution.id,
            "status": execution.status,
            "etlId": execution.definition.id,
            "fileName": execution.file_name,
            "startMoment": execution.started,
            "endMoment": execution.ended,
        }
        if execution.ended:
            response["rowsInError"] = len(execution.errors)
            if self._options.etl_tells_rows:
                response["rowsRead"] = execution.read
                response["rowsCreated"] = execution.created
                response["rowsUpdated"] = execution.updated
        if execution.ended and execution.failure:
            response["message"] = execution.failure
        return response


class _InvalidFileError(Exception):
    """A file that fails its validation."""


def read_definition(raw: Any) -> Definition:
    """Read the definition of a one-shot execution (its form is a guess).

    Raises:
        RefusedError: It is wrong (400).
    """
    if not isinstance(raw, dict):
        raise RefusedError(400, "The definition must be a JSON object")
    table = tables.find_table(str(raw.get("profileTableId")))
    if table is None:
        raise RefusedError(400, "The definition names no profile table")
    file_format = raw.get("fileFormat") or {}
    columns = raw.get("columns")
    definition = Definition(
        id=None,
        table=table,
        key=str(raw.get("keyColumn")),
        mode=str(raw.get("mode")),
        separator=str(file_format.get("separator", ";")),
        quote=str(file_format.get("quote", '"')),
        encoding=str(file_format.get("encoding", "UTF-8")),
        columns={c["column"]: c["field"] for c in columns} if columns else None,
        empty_clears=None,
    )
    if definition.mode not in _MODES:
        raise RefusedError(400, f"Unknown mode {definition.mode}")
    if definition.key not in tables.unique_attributes(table):
        raise RefusedError(400, f"{definition.key} is not a unique attribute")
    return definition


def _unpack(content: bytes) -> bytes:
    try:
        if content.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                names = archive.namelist()
                if len(names) != 1:
                    raise _InvalidFileError("One file is expected in the archive")
                return archive.read(names[0])
        if content.startswith(b"\x1f\x8b"):
            return gzip.decompress(content)
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error):
        raise _InvalidFileError("The archive is damaged") from None
    return content


def _values(
    table: dict[str, Any], row: dict[str, str], *, clears: bool
) -> tuple[dict[str, Any], dict[str, bool]]:
    """Convert cells to values; an empty cell that leaves a value unchanged is left out."""
    attributes: dict[str, Any] = {}
    subscriptions: dict[str, bool] = {}
    kinds = {a["name"]: a for a in table["attributes"]}
    for name, text in row.items():
        if name in kinds:
            if text or clears:
                attributes[name] = _value(kinds[name], text) if text else None
        elif text or clears:
            if text.lower() not in _TRUE | _FALSE | {""}:
                raise RefusedError(400, f"Subscription {name}: must be Y or N")
            subscriptions[name] = text.lower() in _TRUE
    return attributes, subscriptions


def _value(attribute: dict[str, Any], text: str) -> Any:
    kind = attribute.get("valueType") or attribute["type"]
    try:
        if kind == "INTEGER":
            return int(text)
        if kind == "DECIMAL":
            return float(text)
    except ValueError:
        raise RefusedError(400, f"Attribute {attribute['name']}: must be a number") from None
    if kind == "BOOLEAN":
        if text.lower() not in _TRUE | _FALSE:
            raise RefusedError(400, f"Attribute {attribute['name']}: must be a boolean")
        return text.lower() in _TRUE
    return text
