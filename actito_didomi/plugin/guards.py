"""Guards: limits on what a run may change, checked before it is written. Pure.

Once a limit is passed, opt-outs are still written, and all else waits for a decision: a mistake in
the settings must not subscribe people, or change a whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec

from actito_didomi import codes
from actito_didomi.settings import setting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from actito_didomi.codes import Code

FEWEST = 20
"""Opt-ins, or people, below which a share says nothing."""
_ALL = 100


class GuardSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the guards and of the circuit breaker."""

    max_opt_in_pct: Annotated[
        float,
        setting(
            "Maximum share of opt-ins (%)",
            "Guard: of the people who are opted out of something where it is written, the share "
            "that a flush may opt in, in percent; counted for each field from 20 opt-ins on. "
            "Beyond it only opt-outs are written, and the run ends with exit status 4. 100 turns "
            "it off.",
            ge=0,
            le=100,
        ),
    ] = 50
    max_opt_ins: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        setting(
            "Maximum opt-ins",
            "Guard: how many opt-ins a flush may write. No limit unless set.",
            advanced=True,
        ),
    ] = None
    max_change_pct: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=100)] | None,
        setting(
            "Maximum share of changes (%)",
            "Guard: of the people known, the share that a flush may change, in percent; from 20 "
            "people on. No limit unless set.",
            advanced=True,
        ),
    ] = None
    max_creates: Annotated[
        Annotated[int, msgspec.Meta(ge=0)] | None,
        setting(
            "Maximum created",
            "Guard: how many profiles or users a run may create. No limit unless set.",
            advanced=True,
        ),
    ] = None
    max_unmatched_pct: Annotated[
        float,
        setting(
            "Maximum share of unmatched people (%)",
            "Guard: of the people to be written, the share that may be unknown to the system "
            "written to, in percent; from 20 people on. Beyond it the key attribute is probably "
            "wrong. 100 turns it off.",
            advanced=True,
            ge=0,
            le=100,
        ),
    ] = 50
    guards_allow_opt_outs: Annotated[
        bool,
        setting(
            "Write opt-outs in any case",
            "Whether opt-outs are still written once a guard defers the rest.",
            advanced=True,
        ),
    ] = True
    force_guards: Annotated[
        bool,
        setting(
            "Override the guards",
            "Whether to write, for this run, what the guards would defer. Set it for one run, "
            "after a look at what would change.",
            advanced=True,
        ),
    ] = False
    breaker_threshold: Annotated[
        int,
        setting(
            "Circuit breaker",
            "How many refusals alike, one after the other, stop the run: they concern the settings "
            "or the rights of the key, not people, and nobody is rejected. 0 turns it off.",
            advanced=True,
            ge=0,
        ),
    ] = 20


@dataclass(frozen=True)
class Trip:
    """A limit that was passed.

    Attributes:
        guard: Name of the setting.
        code: The code of the error.
        limit: Its value.
        found: What was found.
        text: Limit and finding in words.
    """

    guard: str
    code: Code
    limit: float
    found: float
    text: str


class Guards:
    """Watches what is about to be written in a run.

    Args:
        settings: The limits.

    Attributes:
        trip: The first limit that was passed; None as long as there is none, or if they are
            overridden.
        overridden: The first limit that was passed in spite of it, as `force_guards` says.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.trip: Trip | None = None
        self.overridden: Trip | None = None
        self._created = 0

    @property
    def tripped(self) -> bool:
        """Whether all but opt-outs is deferred."""
        return self.trip is not None

    @property
    def stops_lookups(self) -> bool:
        """Whether no more requests are to be made for people whom no look has found."""
        return self.trip is not None and self.trip.code is codes.TOO_MANY_UNMATCHED

    def check_plan(
        self,
        opt_ins: Mapping[str, int],
        opted_out: Callable[[str, int], int],
        *,
        changed: int,
        people: Callable[[], int],
    ) -> None:
        """Check what a flush is about to write.

        Args:
            opt_ins: How many people are to be opted in, by the name of the field.
            opted_out: Returns how many people are opted out of a field now; it may stop counting
                at the number given.
            changed: How many people are to be changed.
            people: Returns how many are known.
        """
        limits = self.settings
        total = sum(opt_ins.values())
        if limits.max_opt_ins is not None and total > limits.max_opt_ins:
            self._pass(
                Trip(
                    "max_opt_ins",
                    codes.TOO_MANY_OPT_INS,
                    limits.max_opt_ins,
                    total,
                    f"{total:,} opt-ins are due, and `max_opt_ins` is {limits.max_opt_ins:,}",
                )
            )
        share = limits.max_opt_in_pct
        for field, count in opt_ins.items():
            if count < FEWEST or share >= _ALL:
                continue
            enough = int(count * _ALL / share) + 1 if share else count
            out = max(opted_out(field, enough), count)
            found = round(count * _ALL / out, 1)
            if found > share:
                self._pass(
                    Trip(
                        "max_opt_in_pct",
                        codes.TOO_MANY_OPT_INS,
                        share,
                        found,
                        f"{count:,} of {out:,} people opted out of {field} would be opted in "
                        f"({found:g} %), and `max_opt_in_pct` is {share:g}. See whether "
                        "`invert` is swapped, or the mapping wrong",
                    )
                )
        share = _ALL if limits.max_change_pct is None else limits.max_change_pct
        if changed >= FEWEST and share < _ALL:
            known = max(people(), changed)
            found = round(changed * _ALL / known, 1)
            if found > share:
                self._pass(
                    Trip(
                        "max_change_pct",
                        codes.TOO_MANY_CHANGES,
                        share,
                        found,
                        f"{changed:,} of {known:,} people would be changed ({found:g} %), and "
                        f"`max_change_pct` is {share:g}",
                    )
                )

    def check_unmatched(self, unmatched: int, people: int) -> bool:
        """Check how many people are unknown to the system written to.

        Args:
            unmatched: How many are unknown.
            people: Of how many.

        Returns:
            Whether too many are.
        """
        share = self.settings.max_unmatched_pct
        if people < FEWEST or share >= _ALL or unmatched * _ALL <= share * people:
            return False
        found = round(unmatched * _ALL / people, 1)
        self._pass(
            Trip(
                "max_unmatched_pct",
                codes.TOO_MANY_UNMATCHED,
                share,
                found,
                f"{unmatched:,} of {people:,} people are unknown ({found:g} %), and "
                f"`max_unmatched_pct` is {share:g}. Check that `user_unique_key` names the "
                "attribute that holds `organization_user_id`",
            )
        )
        return self.tripped

    def may_create(self) -> bool:
        """Return whether one more may be created, and count it."""
        most = self.settings.max_creates
        if most is not None and self._created >= most:
            self._pass(
                Trip(
                    "max_creates",
                    codes.TOO_MANY_CREATES,
                    most,
                    self._created + 1,
                    f"More would be created than `max_creates` allows ({most:,})",
                )
            )
            return not self.tripped
        self._created += 1
        return True

    def _pass(self, trip: Trip) -> None:
        if self.settings.force_guards:
            self.overridden = self.overridden or trip
        else:
            self.trip = self.trip or trip
