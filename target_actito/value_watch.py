"""Counts the values that mappings meet in what is gathered, and reports those that meet none."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

from actito_didomi import codes
from actito_didomi.consent.coalesce import HELD, OURS, Field
from actito_didomi.consent.mapping import show_path
from actito_didomi.consent.mapping_watch import FEWEST_PEOPLE, MappingWatch
from actito_didomi.errors import MistakeFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from actito_didomi.consent.coalesce import PersonLayers, ProfileChange
    from actito_didomi.consent.mapping import Mapping as ConsentMapping
    from actito_didomi.consent.mapping_watch import MappingCount, MappingTotal
    from target_actito.translate import Translator

logger = logging.getLogger("target-actito")


class ValueWatch:
    """Counts the values that mappings meet.

    Args:
        mappings: The mappings.
        translator: What they are read as.
        least: People after whom a mapping without a value is silent, also within a run.
        earlier: What they met in earlier runs; None where that can't be known.
    """

    def __init__(
        self,
        mappings: Sequence[ConsentMapping],
        translator: Translator,
        least: int,
        earlier: Sequence[MappingTotal] | None,
    ) -> None:
        self._earlier = earlier or ()
        self._watch = MappingWatch(mappings, self._earlier)
        self._translator = translator
        self._least = least
        self._least_at_end = least if earlier is None else min(least, FEWEST_PEOPLE)
        self._numbers = {
            Field(mapping.type, mapping.id): number for number, mapping in enumerate(mappings)
        }
        self._warned = False

    @property
    def counts(self) -> list[MappingCount]:
        """What each mapping met."""
        return self._watch.counts

    @property
    def totals(self) -> list[MappingTotal]:
        """What each mapping met in all runs."""
        return self._watch.totals

    @property
    def knows_people(self) -> bool:
        """Whether people were seen in earlier runs."""
        return any(total.people for total in self._earlier)

    @property
    def seen_regulations(self) -> str:
        """The regulations of the records sampled, in words; empty if none was named."""
        names = sorted(self._watch.regulations)
        return f" (seen: {', '.join(names)})" if names else ""

    def sample(self, lines: Iterable[bytes]) -> None:
        """Read all names of consents in some of the first records."""
        if self._watch.wants_samples:
            self._watch.sample(lines)

    def count_people(self, people: Sequence[PersonLayers]) -> None:
        """Count the values in what is gathered, with a ledger.

        Copies of choices made in Actito don't count: a wrong mapping would meet its own.
        """
        opt_ins: Counter[int] = Counter()
        opt_outs: Counter[int] = Counter()
        for found in people:
            for _, ins, outs, _, kind in found.layers:
                if kind & (OURS | HELD) == 0:
                    opt_ins[ins] += 1
                    opt_outs[outs] += 1
            for name in found.attributes:
                number = self._numbers.get(Field("attribute", name))
                if number is not None:
                    self._watch.count_value(number)
        self._watch.count(opt_ins, opt_outs)

    def count_changes(self, changes: Sequence[ProfileChange]) -> None:
        """Count the values in what is gathered, without a ledger."""
        opt_ins: Counter[int] = Counter()
        opt_outs: Counter[int] = Counter()
        for change in changes:
            for field, value in zip(change.fields, change.values, strict=True):
                number = self._numbers.get(field)
                if number is None:
                    continue
                if value.choice is None:
                    self._watch.count_value(number)
                else:
                    (opt_ins if value.choice else opt_outs)[1 << number] += 1
        self._watch.count(opt_ins, opt_outs)

    def suspects_mistake(self, people: int) -> bool:
        """Return whether the values met so far show a mistake, if enough people are like this.

        Args:
            people: How many people were seen in this run.
        """
        self._watch.note_people(people)
        return self._watch.find_silent(1)[1]

    def check(self, people: int, *, is_end: bool) -> MistakeFoundError | None:
        """See whether mappings meet values, and log which ones don't.

        Args:
            people: How many people were seen in this run.
            is_end: Whether the input has ended.

        Returns:
            What is wrong; None as long as there is no mistake.
        """
        self._watch.note_people(people)
        silent, is_mistake = self._watch.find_silent(self._least_at_end if is_end else self._least)
        if (is_end or is_mistake) and not self._warned:
            self._warned = True
            for one in silent:
                logger.warning("%s: %s", codes.MAPPING_SILENT, one.to_text())
                for count in self.counts:
                    if (count.id, count.value) == (one.id, one.value):
                        count.is_silent = True
                        count.nearest = next(iter(one.nearest), "")
        if not is_mistake:
            return None
        texts = " ".join(one.to_text() for one in silent)
        return MistakeFoundError(
            codes.MAPPING_MISSED,
            f"mappings are probably wrong: {texts} Everything else is written, and STATE stays. "
            'Correct the `value`, or, if it is right, set `"may_be_silent": true` in the mapping; '
            "then run again.",
        )

    def note_paths(self) -> None:
        """Note what the name of each mapping was read as."""
        for number, found in enumerate(self.counts):
            places = self._translator.resolver.places(number)
            found.read_as = show_path(next(iter(places))) if len(places) == 1 else ""
