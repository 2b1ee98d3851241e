"""Settings on the consent ledger, the same for every plugin."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from actito_didomi.settings import setting

NO_LEDGER = "none"
"""`ledger_url` without a ledger."""


class LedgerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings on the consent ledger."""

    ledger_url: Annotated[
        str,
        setting(
            "Ledger",
            "Database of the consent ledger, as a URL of SQLAlchemy such as "
            "`sqlite:///actito-didomi.db` or `postgresql+psycopg://...`; the same in all four "
            "plugins. `none` works without one, and can't keep all promises.",
            secret=True,
        ),
    ] = "sqlite:///actito-didomi.db"
    ledger_key: Annotated[
        str,
        setting(
            "Ledger key",
            "Any random text: the key of the hashes that stand for people in logs. Next to a "
            "SQLite ledger it is made at first use; for other databases it is required, the same "
            "in all four plugins.",
            secret=True,
        ),
    ] = ""
    ledger_scope: Annotated[
        str,
        setting(
            "Ledger scope",
            "Name of the pair of Didomi organisation and Actito table within the ledger. Needed "
            "only where one database holds several pairs, then the same in all plugins of a pair.",
            advanced=True,
        ),
    ] = ""
    baseline: Annotated[
        Literal["opt_out", "didomi"] | None,
        setting(
            "Baseline",
            "What counts where an opt-in in Didomi meets an opt-out in Actito of unknown age, "
            "which the first look found: the opt-out, or the choice in Didomi. If it is not set, "
            "such opt-ins are deferred.",
        ),
    ] = None
    clock_tolerance: Annotated[
        float,
        setting(
            "Clock tolerance (s)",
            "How much the clocks of Actito, Didomi and this machine may differ, in seconds. An "
            "opt-in on one side counts only if it is newer than an opt-out on the other side by "
            "more than this.",
            advanced=True,
            ge=0,
        ),
    ] = 60
    on_lost_ledger: Annotated[
        Literal["fail", "baseline"],
        setting(
            "On a lost ledger",
            "What to do if STATE names another ledger than `ledger_url` holds: `fail`, so that "
            "it can be restored, or begin again with a `baseline`, which must be `opt_out` then.",
            advanced=True,
        ),
    ] = "fail"
    require_ledger: Annotated[
        bool,
        setting(
            "Require the ledger",
            "Fail if the ledger doesn't exist yet, rather than make a new one.",
            advanced=True,
        ),
    ] = False
    lease_wait: Annotated[
        float,
        setting(
            "Lease wait (s)",
            "Maximum time to wait for another run of the same direction to end, in seconds.",
            advanced=True,
            ge=0,
        ),
    ] = 0
    late_bound: Annotated[
        float,
        setting(
            "Late bound (s)",
            "Maximum time after which a request of unknown outcome may still be carried out, in "
            "seconds.",
            advanced=True,
            gt=0,
        ),
    ] = 3600
    late_days: Annotated[
        int,
        setting(
            "Late days",
            "For this many days late, repeated or grown files of exports are read, and writes "
            "are kept, since rows of exports repeat them.",
            advanced=True,
            ge=1,
        ),
    ] = 14
    key_matching: Annotated[
        Literal["exact", "folded"] | None,
        setting(
            "Key matching",
            "How people are matched by their key: `exact`, or `folded` (blanks around it and "
            "case don't count). By default `folded` if the key attribute is an e-mail address.",
            advanced=True,
        ),
    ] = None

    @property
    def has_ledger(self) -> bool:
        """Whether there is a ledger."""
        return self.ledger_url != NO_LEDGER
