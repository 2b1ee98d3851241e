"""The consent ledger: who chose what, when, on which side; what each side holds and is owed.

All plugins of a pair of Didomi organisation and Actito table share it. Each method is one short
transaction; no request, no output and no wait may happen inside of `Ledger.change`.
"""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Any, Literal

from actito_didomi import codes
from actito_didomi.consent.conflicts import Rules, to_datetime
from actito_didomi.consent.facts import FactTable
from actito_didomi.consent.people import PeopleTable
from actito_didomi.consent.rejects import RejectTable
from actito_didomi.consent.runs import RunTable
from actito_didomi.consent.schema import find_pair, open_database
from actito_didomi.consent.traces import TraceTable
from actito_didomi.errors import SettingsError

if TYPE_CHECKING:
    from actito_didomi.consent.config import LedgerSettings
    from actito_didomi.consent.identity import Matching
    from actito_didomi.consent.schema import LedgerScope, Prepared
    from actito_didomi.consent.store import Store
    from actito_didomi.runtime import Runtime

logger = logging.getLogger(__name__)

_SECOND = 1_000_000


class Ledger(PeopleTable, RunTable, RejectTable, FactTable, TraceTable):
    """The ledger of one pair of Didomi organisation and Actito table.

    Args:
        store: The database, with its tables.
        ready: Its ids.
        rules: Settings that decide between choices.
        runtime: Clock and lock.

    Attributes:
        id: Id of the ledger, and of the pair if it has a name; STATE carries it.
        is_new: Whether nothing was known there when it was opened.
        rules: Settings that decide between choices.
    """

    def __init__(self, store: Store, ready: Prepared, rules: Rules, runtime: Runtime) -> None:
        key = hashlib.sha256(ready.key.encode()).digest()
        super().__init__(store, ready.scope, runtime, key=key, rules=rules)
        self.id = ready.ledger_id
        self.is_new = ready.is_new
        self._event_text = ""

    @classmethod
    def open(cls, settings: LedgerSettings, scope: LedgerScope, runtime: Runtime) -> Ledger:
        """Open the ledger of a pair; it is made, or brought to the newest version, if needed.

        Raises:
            SettingsError: It can't be used, is of a newer version, is missing although it is
                required, or belongs to another pair.
        """
        store, key = open_database(settings, runtime)
        try:
            ready = find_pair(store, settings, scope, key)
        except BaseException:
            store.close()
            raise
        rules = Rules(
            clock_tolerance=round(settings.clock_tolerance * _SECOND),
            baseline=settings.baseline,
            late_bound=round(settings.late_bound * _SECOND),
        )
        return cls(store, ready, rules, runtime)

    def close(self) -> None:
        """Release leases and limits, and close all connections."""
        self.release_all()
        self._store.close()

    def check_state(self, ledger_id: str | None, *, on_lost: Literal["fail", "baseline"]) -> bool:
        """Compare the ledger with the one that a STATE names.

        Args:
            ledger_id: What STATE names; None if there is no STATE, or it names none.
            on_lost: The setting `on_lost_ledger`.

        Returns:
            Whether bookmarks of the STATE may be used: a ledger that knows nothing yet must learn
            all that was read before.

        Raises:
            SettingsError: STATE names another ledger, and `on_lost` is `fail`, or the setting
                `baseline` would turn opt-outs back that the lost ledger knew.
        """
        if ledger_id == self.id:
            return True
        if ledger_id is None:
            return not self.is_new
        if on_lost == "baseline" and self.rules.baseline == "didomi":
            raise SettingsError(
                codes.LEDGER_MISSING,
                "baseline: it is `didomi`, and STATE names another ledger than ledger_url holds. "
                "Without the lost ledger nobody knows which opt-outs in Actito are newer than an "
                "opt-in in Didomi: `didomi` would turn them back. Set `baseline: opt_out` in all "
                "plugins, and keep it for the new ledger.",
            )
        if on_lost == "baseline":
            logger.warning(
                "STATE names another ledger than ledger_url holds. on_lost_ledger is `baseline`: "
                "all is read again, and compared with a new look at the whole table."
            )
            return False
        raise SettingsError(
            codes.LEDGER_MISSING,
            "ledger_url: STATE names another ledger than the one there, which "
            f"{'is empty' if self.is_new else 'belongs to other plugins, or is a copy'}. Set the "
            "same ledger_url (and ledger_scope) in all plugins, from the same folder if it is a "
            "relative path, or restore the ledger. If it is lost for good, set "
            "`on_lost_ledger: baseline` for one run, and `baseline: opt_out` from now on.",
        )

    @property
    def scope_text(self) -> str:
        """What the ids of our events derive from: the same for good, once it was used.

        Read it when an event is to be posted or recognised, not before: until then the plugins of
        both sides complete the pair.

        Raises:
            SettingsError: The database fails.
        """
        if not self._event_text:
            with self._store.write() as transaction:
                transaction.execute(
                    "UPDATE ledger_scopes SET event_text = organization || '/' || regulation || "
                    "'/' || entity || '/' || table_name WHERE number = ? AND "
                    "event_text IS NULL",
                    self._scope,
                )
                row = transaction.one(
                    "SELECT event_text FROM ledger_scopes WHERE number = ?", self._scope
                )
            self._event_text = str(row[0])
        return self._event_text

    def matching(self, own: Matching | None = None) -> Matching:
        """Return how keys of people are compared; the plugins of Actito record it.

        Args:
            own: What a plugin of Actito compares them by; None for one of Didomi.

        Raises:
            SettingsError: The database fails.
        """
        if own is not None:
            with self._store.write() as transaction:
                transaction.execute(
                    "UPDATE ledger_scopes SET matching = ? WHERE number = ? AND "
                    "(matching IS NULL OR matching <> ?)",
                    own,
                    self._scope,
                    own,
                )
            return own
        with self._store.read() as transaction:
            row = transaction.one(
                "SELECT matching FROM ledger_scopes WHERE number = ?", self._scope
            )
        return "folded" if row is not None and row[0] == "folded" else "exact"

    # What it holds

    def describe_database(self) -> dict[str, Any]:
        """Return `id`, `version` of the tables, and when it was `created`.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            ledger_id, created = transaction.one("SELECT id, created FROM ledger_info")
            version = transaction.one("SELECT version_num FROM ledger_version")[0]
        return {
            "id": ledger_id,
            "version": version,
            "created": to_datetime(created).isoformat(timespec="seconds"),
        }

    def describe_pair(self) -> dict[str, str]:
        """Return the parts of the pair by their names; those that no plugin knew yet are empty.

        Raises:
            SettingsError: The database fails.
        """
        names = ("organization", "regulation", "entity", "table_name")
        with self._store.read() as transaction:
            row = transaction.one(
                f"SELECT {', '.join(names)} FROM ledger_scopes WHERE number = ?",  # noqa: S608
                self._scope,
            )
        return dict(zip(names, row, strict=True))

    def count_people(self) -> int:
        """Return the number of people whom the ledger knows.

        Raises:
            SettingsError: The database fails.
        """
        with self._store.read() as transaction:
            row = transaction.one("SELECT count(*) FROM ledger_people WHERE scope = ?", self._scope)
        return int(row[0])
