"""Watches whether mappings meet values: a wrong name would lose choices without a word. Pure."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from actito_didomi import codes
from actito_didomi.consent.choices import Path
from actito_didomi.consent.mapping import alias_names, flat_name, flatten, show_path
from actito_didomi.consent.records import ROOT_FIELDS, split_record
from actito_didomi.errors import BadInputError, InvalidMappingError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from actito_didomi.consent.mapping import Mapping as ConsentMapping

FEWEST_PEOPLE = 20
"""People after whom a mapping without a value is silent at the end of a run."""
_SAMPLES = 200
"""Records of which all names are read."""
_NEAR = 2
"""Edits that make one name of another in a typing error."""
_NODES = ("channels", "channel", "purposes", "preferences", "preference", "vendors", "tcfcs")


class MappingTotal(msgspec.Struct, frozen=True):
    """What a mapping met in all runs since it stands as it does.

    Attributes:
        value: Its name in Didomi.
        id: The field in Actito.
        path: Its path, if one was set.
        people: People seen, counted again in each run.
        choices: How often one had a value.
    """

    value: str
    id: str
    path: Path | None = None
    people: int = 0
    choices: int = 0


def check_roots(mappings: Sequence[ConsentMapping]) -> None:
    """Check that the name or path of each mapping can exist in a record.

    Raises:
        InvalidMappingError: One can't.
    """
    for mapping in mappings:
        if mapping.path is None and not _is_possible(mapping.value):
            raise InvalidMappingError(
                codes.INVALID_MAPPING,
                f"mappings: {mapping.id!r} has the value {mapping.value!r}, which can't stand in a "
                "record. A value begins with consents_channels_, consents_purposes_, "
                "consents_preferences_, consents_vendors_ or metadata_, or is the name of a part "
                f"of the user: {', '.join(ROOT_FIELDS)}. An example is "
                "consents_channels_email_enabled.",
            )
        if mapping.path is not None and not _is_possible(flat_name(mapping.path)):
            raise InvalidMappingError(
                codes.INVALID_MAPPING,
                f"mappings: {mapping.id!r} has the path {show_path(mapping.path)}, which can't "
                "stand in a record. A path begins with consents and channels, purposes or vendors, "
                'or with metadata. An example is ["consents", "channels", "email", "enabled"].',
            )


def _is_possible(name: str) -> bool:
    if name in ROOT_FIELDS or (name.startswith("metadata_") and name != "metadata_"):
        return True
    return any(
        name == f"consents_{node}" or name.startswith(f"consents_{node}_") for node in _NODES
    )


@dataclass
class MappingCount:
    """What a mapping met in a run.

    Attributes:
        value: The name in Didomi.
        id: The field in Actito.
        read_as: The path that the name is read as; empty as long as that isn't known.
        people: People seen in the run, however many of them had a value.
        choices: How many had one, yes or no.
        opt_ins: How many of these were opt-ins.
        opt_outs: How many were opt-outs.
        is_silent: Whether no record of all runs held a value for it, though many people were seen.
        nearest: The most similar name that was seen, if the mapping is silent; else empty.
    """

    value: str
    id: str
    read_as: str = ""
    people: int = 0
    choices: int = 0
    opt_ins: int = 0
    opt_outs: int = 0
    is_silent: bool = False
    nearest: str = ""

    def to_text(self) -> str:
        """Return the counts as a line for people."""
        read_as = f", read as {self.read_as}" if self.read_as else ""
        return (
            f"{self.id} <- {self.value}{read_as}: choices {self.choices:,}, opt-ins "
            f"{self.opt_ins:,}, opt-outs {self.opt_outs:,}"
        )


@dataclass(frozen=True)
class Silence:
    """A mapping that met no value.

    Attributes:
        value: Its name in Didomi.
        id: The field in Actito.
        nearest: Names that were seen and that no mapping names, the most similar first.
        is_near: Whether the first of them is probably meant.
    """

    value: str
    id: str
    nearest: tuple[str, ...]
    is_near: bool

    def to_text(self) -> str:
        """Return a sentence for people."""
        near = f" Seen were: {', '.join(self.nearest)}." if self.nearest else ""
        return f"mapping {self.id}: no record held a value for {self.value}.{near}"


@dataclass
class MappingWatch:
    """Counts the values that mappings meet, and finds those that meet none.

    Attributes:
        mappings: The mappings.
        earlier: What they met in earlier runs; others may be among them.
        counts: What each met in this run, in their order.
        regulations: Regulations of the records sampled, by their number.
    """

    mappings: Sequence[ConsentMapping]
    earlier: Sequence[MappingTotal] = ()
    counts: list[MappingCount] = field(init=False)
    regulations: Counter[str] = field(default_factory=Counter)
    _unnamed: Counter[str] = field(default_factory=Counter)
    _samples_left: int = _SAMPLES
    _before: list[MappingTotal] = field(init=False)
    _similar: dict[str, tuple[int, Silence]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {(one.value, one.id, one.path): one for one in self.earlier}
        self._before = [
            known.get((mapping.value, mapping.id, mapping.path))
            or MappingTotal(mapping.value, mapping.id, mapping.path)
            for mapping in self.mappings
        ]
        self.counts = [MappingCount(mapping.value, mapping.id) for mapping in self.mappings]

    @property
    def totals(self) -> list[MappingTotal]:
        """What each mapping met in all runs, in their order."""
        return [
            MappingTotal(
                before.value,
                before.id,
                before.path,
                before.people + count.people,
                before.choices + count.choices,
            )
            for before, count in zip(self._before, self.counts, strict=True)
        ]

    @property
    def wants_samples(self) -> bool:
        """Whether more records are to be sampled."""
        return self._samples_left > 0

    def sample(self, lines: Iterable[bytes]) -> None:
        """Read all names of consents in some records.

        Args:
            lines: RECORD messages, or records; what can't be read is left out.
        """
        for line in lines:
            if self._samples_left <= 0:
                return
            try:
                record = msgspec.json.decode(line)
                if isinstance(record, dict) and isinstance(record.get("record"), dict):
                    record = record["record"]
                parts = split_record(record) if isinstance(record, dict) else []
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, BadInputError):
                continue
            self._samples_left -= 1
            for part in parts:
                self._sample_part(part)

    def _sample_part(self, part: Mapping[str, Any]) -> None:
        consents, regulation = part.get("consents"), part.get("regulation")
        if isinstance(regulation, str):
            self.regulations[regulation] += 1
        if isinstance(consents, dict):
            wanted = {key: consents[key] for key in consents if key not in {"tcfcs", "vendors"}}
            for path, value in flatten({"consents": wanted}):
                if _is_choice(path, value) and not self._names(path):
                    self._unnamed[flat_name(path)] += 1

    def _names(self, path: Path) -> bool:
        """Return whether a mapping names a path."""
        names = {flat_name(path), *alias_names(path)}
        return any(
            mapping.path == path if mapping.path else mapping.value in names
            for mapping in self.mappings
        )

    def note_people(self, people: int) -> None:
        """Record how many people were seen in the run."""
        for found in self.counts:
            found.people = people

    def count(self, opt_ins: Mapping[int, int], opt_outs: Mapping[int, int]) -> None:
        """Count what people said.

        Args:
            opt_ins: Masks of mappings with an opt-in, each with the number of times it came.
            opt_outs: The same of opt-outs.
        """
        for number, found in enumerate(self.counts):
            bit = 1 << number
            ins = sum(n for mask, n in opt_ins.items() if mask & bit)
            outs = sum(n for mask, n in opt_outs.items() if mask & bit)
            found.opt_ins += ins
            found.opt_outs += outs
            found.choices += ins + outs

    def count_value(self, number: int) -> None:
        """Count a value that is neither an opt-in nor an opt-out.

        Args:
            number: Number of its mapping.
        """
        self.counts[number].choices += 1

    def find_silent(self, least: int) -> tuple[list[Silence], bool]:
        """Find the mappings that have met no value since they stand as they are.

        Args:
            least: People to be known before a mapping counts as silent.

        Returns:
            Those among them of which enough people are known, and whether the run should end with
            an error: a similar name was seen, or no mapping at all met a value.
        """
        silent: list[Silence] = []
        met = 0
        for mapping, total in zip(self.mappings, self.totals, strict=True):
            if total.choices:
                met += 1
            elif total.people >= least and not mapping.may_be_silent:
                silent.append(self._silence(mapping))
        return silent, any(one.is_near for one in silent) or (bool(silent) and not met)

    def _silence(self, mapping: ConsentMapping) -> Silence:
        known = self._similar.get(mapping.id)
        if known is not None and known[0] == len(self._unnamed):
            return known[1]
        seen = list(self._unnamed)
        nearest = difflib.get_close_matches(mapping.value, seen, n=3, cutoff=0.6)
        near = [name for name in seen if _distance(mapping.value, name) <= _NEAR]
        ordered = list(dict.fromkeys([*near, *nearest]))[:3]
        found = Silence(mapping.value, mapping.id, tuple(ordered), bool(near))
        self._similar[mapping.id] = len(seen), found
        return found


def _is_choice(path: Path, value: Any) -> bool:
    return isinstance(value, bool) or (path[-1] == "value" and isinstance(value, str))


def _distance(one: str, other: str) -> int:
    """Return how many insertions, deletions, replacements and swaps lead from one to the other."""
    if abs(len(one) - len(other)) > _NEAR:
        return _NEAR + 1
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before_last, before, row = before, row, [i]
        for j, right in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == other[j - 2] and one[i - 2] == right:
                cost = min(cost, before_last[j - 2] + 1)
            row.append(cost)
    return row[-1]
