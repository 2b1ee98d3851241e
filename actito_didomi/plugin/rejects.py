"""Rejects: what could not be written, stored with its reason before any STATE passes it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi import codes
from actito_didomi.errors import SettingsError, TooManyRejectsError

if TYPE_CHECKING:
    from actito_didomi.codes import Code
    from actito_didomi.runtime import Runtime

_PRIVATE = 0o600


@dataclass(frozen=True)
class Reject:
    """Something that could not be written, with all that is needed to write it later.

    Attributes:
        code: What kind of reject it is.
        reason: Why, in words for the operator.
        person: The person's key; None if it isn't known.
        opt_out: Whether it holds an opt-out, or may hold one.
        change: What was to be written: `attributes` and `subscriptions`.
        record: The record itself, if no change could be made of it.
        status: HTTP status, if an API refused it.
        response: The API's response, as it came; may hold personal data.
        raw: The line itself, if nothing could be decoded of it.
    """

    code: Code
    reason: str
    person: str | None = None
    opt_out: bool = False
    change: dict[str, Any] | None = None
    record: Any = None
    status: int | None = None
    response: str | None = None
    raw: bytes | None = None


class RejectStore:
    """Append rejects to a JSON Lines file that only its owner can read.

    Each line is forced to disk before `add` returns. The file holds personal data.

    Args:
        path: The file; created with the first reject.
        max_rejects: Maximum number of rejects in one run.
        runtime: Clock.

    Attributes:
        count: Rejects stored.
        by_code: The same, counted by the name of the code.
        opt_outs: How many of them hold an opt-out, or may hold one.

    Raises:
        SettingsError: The file can't be written; checked at start, before it is needed.
    """

    def __init__(self, path: str | os.PathLike[str], max_rejects: int, runtime: Runtime) -> None:
        self.path = Path(path).absolute()
        self.count = 0
        self.by_code: Counter[str] = Counter()
        self.opt_outs = 0
        self._max_rejects = max_rejects
        self._runtime = runtime
        writable = self.path if self.path.exists() else self.path.parent
        if self.path.is_dir() or not os.access(writable, os.W_OK):
            raise SettingsError(
                codes.UNUSABLE_PATH,
                f"rejects_path: {self.path} can't be written. Its folder must exist and be "
                "writable, because rejects are kept there.",
            )

    def add(self, reject: Reject) -> None:
        """Store a reject durably.

        Raises:
            TooManyRejectsError: It is stored, and there are now more than `max_rejects`.
        """
        line = {
            "rejected_at": self._runtime.now().isoformat(timespec="seconds"),
            "person": reject.person,
            "opt_out": reject.opt_out,
            "change": reject.change,
            "status": reject.status,
            "code": reject.code.name,
            "reason": reject.reason,
            "response": reject.response,
            "record": reject.record,
        }
        if reject.raw is not None:
            line["raw"] = reject.raw  # as base64
        self._append(msgspec.json.encode(line, enc_hook=str) + b"\n")
        self.count += 1
        self.by_code[reject.code.name] += 1
        self.opt_outs += reject.opt_out
        if self.count > self._max_rejects:
            raise TooManyRejectsError(
                f"More than max_rejects ({self._max_rejects}) rejects; the last one is "
                f"{reject.code}: {reject.reason} The run stops, since its configuration is "
                f"probably wrong. The rejects are in {self.path}; the next run writes what is not "
                "written yet."
            )

    def _append(self, line: bytes) -> None:
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, _PRIVATE)
        try:
            os.fchmod(handle, _PRIVATE)
            size = os.lseek(handle, 0, os.SEEK_END)
            if size and os.pread(handle, 1, size - 1) != b"\n":
                line = b"\n" + line  # a run was killed in the middle of a line
            view = memoryview(line)
            while view:
                view = view[os.write(handle, view) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        if is_new:
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
