"""The rules of the ledger, each of which can be switched off: then the simulation must fail.

A rule is switched off by changing the source of one function of the project, in this process only.
Where that source is no longer found, this says so.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

from actito_didomi.consent import conflicts, entries, event_ids, masks
from actito_didomi.consent.places import users_of
from target_actito import checked, learning
from target_didomi import delivery

PACKAGES = ("actito_didomi", "target_actito", "target_didomi", "tap_actito", "tap_didomi")


class Edit(NamedTuple):
    """A change of the source of a function.

    Attributes:
        owner: The module or class that it belongs to.
        name: Its name.
        old: What stands in its source.
        new: What takes its place.
    """

    owner: Any
    name: str
    old: str
    new: str


def _without_masks(name: str, first: str) -> Edit:
    """Return a change that leaves all people to `entries`.

    Args:
        name: Of a function of `masks`.
        first: Its first statement.
    """
    return Edit(masks, name, first, "    return None\n" + first)


RULES: dict[str, tuple[Edit, ...]] = {
    "one_clock_a_side": (
        Edit(
            conflicts,
            "prevails",
            "        tolerance = 0\n",
            "        tolerance = CLOCK_TOLERANCE\n",
        ),
        Edit(
            conflicts, "newest", "prevails(act, known, 0)", "prevails(act, known, CLOCK_TOLERANCE)"
        ),
        _without_masks("learn_event", "    said = opt_ins | opt_outs\n"),
    ),
    "looks_in_sequence": (
        Edit(conflicts, "prevails", 'new.side == ACTITO and new.source == "look"', "False"),
    ),
    "equal_events_are_acts": (
        Edit(
            entries,
            "learn_event",
            "    event = Held(value, created, created, ours)\n",
            "    event = Held(value, created, created, ours)\n"
            "    if place.held is not None and place.held.value is value:\n"
            "        _hold_event(entry, place, event)\n"
            "        return\n",
        ),
        _without_masks("learn_event", "    said = opt_ins | opt_outs\n"),
    ),
    "stale_looks_are_ignored": (
        Edit(
            entries,
            "learn_look",
            "if (held is not None and began < held.ended) or "
            "(intent is not None and began < intent.began):",
            "if False:",
        ),
    ),
    "orphans_yield_to_opt_out": (
        Edit(
            entries,
            "_learn_outcome",
            "if value is OPT_OUT and intent.writer == ORPHAN:",
            "if False:",
        ),
    ),
    "late_copies_are_no_acts": (
        Edit(entries, "learn_look", "        if copies:\n", "        if False:\n"),
    ),
    "opt_out_seen_is_an_act": (
        Edit(
            entries, "learn_look", "late.value is value and value is OPT_IN", "late.value is value"
        ),
    ),
    "own_rows_are_no_acts": (
        Edit(entries, "learn_row", "if not is_ours or value is OPT_OUT:", "if True:"),
    ),
    "opt_out_in_a_row_is_an_act": (
        Edit(entries, "learn_row", "if not is_ours or value is OPT_OUT:", "if not is_ours:"),
    ),
    "doubtful_hides_no_opt_out": (
        Edit(
            entries,
            "learn_look",
            "(value is not held.value and not explained) or is_hidden",
            "value is not held.value and not explained",
        ),
    ),
    "look_before_opt_in": (
        Edit(
            checked.CheckedWriter,
            "_allowed",
            "if value.opt_out or value.choice is None or field in seen",
            "if True",
        ),
        Edit(checked.CheckedWriter, "_write_one", "self._look(change.person)", "_Look(None)"),
    ),
    "look_before_opt_out": (
        Edit(
            checked.CheckedWriter,
            "_write_one",
            "self._look(change.person)",
            "_Look(None) if change.opt_out else self._look(change.person)",
        ),
    ),
    "only_the_writer_closes": (
        Edit(entries, "_learn_outcome", "    if not mine:\n", "    if False:\n"),
    ),
    "intent_before_call": (
        Edit(learning.Learner, "begin", "begin_write(", "_no_intent("),
        Edit(
            learning.Learner,
            "end",
            "    for field, _ in self._choices(change):\n",
            "    for field, value in self._choices(change):\n"
            "        place, intent = person.entries[field.path], Intent(value, now, '', None)\n"
            "        begin_write(place, field.place, intent, self.rules)\n",
        ),
    ),
    "look_at_didomi_before_opt_in": (
        Edit(
            delivery.Delivery,
            "_decide",
            "        self._learn_sight(person, sight)\n",
            "        if not users_of(p for e in person.entries.values() for p in e.places):\n"
            "            self._learn_sight(person, sight)\n",
        ),
    ),
    "event_id_names_what_it_replaces": (
        Edit(event_ids, "make_event_id", "user_id, replaces, *sorted", "user_id, '', *sorted"),
    ),
}


def _no_intent(*arguments: object) -> None:
    """Record nothing."""
    del arguments


@contextlib.contextmanager
def without(rule: str) -> Iterator[None]:
    """Switch a rule off."""
    undo: list[tuple[Any, str, Any]] = []
    try:
        for edit in RULES[rule]:
            _apply(edit, undo)
        yield
    finally:
        for owner, name, value in reversed(undo):
            setattr(owner, name, value)


def _apply(edit: Edit, undo: list[tuple[Any, str, Any]]) -> None:
    original = inspect.getattr_static(edit.owner, edit.name)
    module = (
        edit.owner if isinstance(edit.owner, ModuleType) else sys.modules[edit.owner.__module__]
    )
    source = getattr(original, "changed_source", "")
    source = source or textwrap.dedent(inspect.getsource(original))
    if edit.old not in source:
        raise LookupError(f"{edit.name} of {edit.owner.__name__} no longer holds: {edit.old}")
    source = source.replace(edit.old, edit.new)
    space: dict[str, Any] = dict(vars(module))
    space["_no_intent"] = _no_intent
    exec(compile(f"from __future__ import annotations\n{source}", f"<{edit.name}>", "exec"), space)  # noqa: S102
    made = space[edit.name]
    changed = FunctionType(
        made.__code__, _names_of(module, space), made.__name__, made.__defaults__, made.__closure__
    )
    changed.__kwdefaults__ = made.__kwdefaults__
    changed.changed_source = source  # type: ignore[attr-defined]
    if not isinstance(edit.owner, ModuleType):
        undo.append((edit.owner, edit.name, original))
        setattr(edit.owner, edit.name, changed)
        return
    for name, found in list(sys.modules.items()):
        if name.split(".")[0] in PACKAGES:
            for attribute, value in list(vars(found).items()):
                if value is original:
                    undo.append((found, attribute, original))
                    setattr(found, attribute, changed)


def _names_of(module: ModuleType, space: dict[str, Any]) -> dict[str, Any]:
    """Return the names that a changed function sees: those of its module, as they are."""
    vars(module).setdefault("_no_intent", space["_no_intent"])
    vars(module).setdefault("users_of", users_of)
    return vars(module)
