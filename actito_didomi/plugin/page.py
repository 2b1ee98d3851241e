"""The report of a run as a page: one HTML file without scripts or addresses, people by hash."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.consent.conflicts import to_datetime
from actito_didomi.consent.person import Owed
from actito_didomi.consent.places import describe_field
from actito_didomi.consent.verdicts import show_time
from actito_didomi.plugin.flow import Part, draw
from actito_didomi.plugin.summary import show_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from actito_didomi.consent.choices import Path
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.consent.person import Person
    from actito_didomi.consent.runs import RunRow

_MOST_COUNTED = 300_000
"""People up to whom it is counted who is subscribed, which reads all of them."""
_RUNS = 30
_COMPARED = 20
_LARGE = 3
"""How many times the usual number of changes is marked; likewise the usual time between runs."""
_NAMED = 20
_APART = 12
"""Bars from which on the times of the first and the last don't touch."""
_SYSTEMS = {"forward": "Actito", "reverse": "Didomi"}
_COLOURS = {0: "good", 4: "warn"}
_FLAGS = {"forward": Owed.ACTITO, "reverse": Owed.DIDOMI}
_OPT_OUTS = {"forward": Owed.OPT_OUT_ACTITO, "reverse": Owed.OPT_OUT_DIDOMI}
_SIDES = {"forward": "actito", "reverse": "didomi"}
_TEXTS = {
    "no_profile": "Actito has no profile of the person. It is written when there is one.",
    "no_user": "Didomi has no user of the person. It is posted when there is one.",
    "deferred": "Off in Actito at the first look, nobody knows since when. Set `baseline`.",
    "not_yet_written": "Known, and written by the next run.",
    "change_refused": "Actito refuses the change: see its words in the reject.",
    "event_refused": "Didomi refuses the event: see its words in the reject.",
    "invalid_record": "A record can't be read, and may hold an opt-out.",
    "unreadable_line": "A line can't be decoded, and counts as an opt-out.",
}
_QUIET = frozenset({"no_profile", "no_user"})
"""Reasons for which an opt-out waits without a fault."""


@dataclass
class _Group:
    """People to whom something is owed for one reason."""

    code: str
    count: int = 0
    opt_outs: int = 0
    newest: list[tuple[int, str]] = field(default_factory=list)

    def add(self, since: int, name: str, *, opt_out: bool) -> None:
        self.count += 1
        self.opt_outs += opt_out
        self.newest.append((since, name))
        if len(self.newest) > 2 * _NAMED:
            self.newest = sorted(self.newest, reverse=True)[:_NAMED]

    def shown(self) -> dict[str, Any]:
        name, _, status = self.code.partition(":")
        known = next((code for code in codes.TABLE if code.name == name), None)
        commands = [f"actito-didomi rejects list --code {name}"]
        if name.endswith("_refused"):
            commands.append(f"actito-didomi rejects retry --code {name}")
        if name in {"invalid_record", "unreadable_line", "invalid_line", "invalid_value"}:
            commands.append("actito-didomi rejects show ID")
        return {
            "code": f"{name} ({status})" if status else name,
            "number": known.number if known is not None else None,
            "text": _TEXTS.get(name, name.replace("_", " ").capitalize() + "."),
            "count": self.count,
            "opt_outs": self.opt_outs,
            "is_alarming": bool(self.opt_outs) and name not in _QUIET,
            "people": [name for _, name in sorted(self.newest, reverse=True)[:_NAMED]],
            "commands": commands,
        }


def render_page(ledger: Ledger, run: RunRow) -> str:
    """Return the page about a run of a target, with what is owed now.

    Args:
        ledger: The ledger.
        run: The run, which has ended.

    Raises:
        SettingsError: The database fails.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - slow

    environment = Environment(
        loader=PackageLoader("actito_didomi.plugin", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
    )
    environment.filters["number"] = lambda number: f"{number:,}"
    environment.filters["period"] = show_seconds
    return environment.get_template("page.html.jinja").render(describe_page(ledger, run))


def describe_page(ledger: Ledger, run: RunRow) -> dict[str, Any]:
    """Return what the page shows."""
    runs = [other for other in ledger.last_runs(400) if other.plugin == run.plugin]
    owed = _owed(ledger, run.direction)
    counts = run.counts
    earlier = [other for other in runs if other.number < run.number]
    pair = ledger.describe_pair()
    seconds = 0.0 if run.ended is None else (run.ended - run.began) / 1_000_000
    held = _held(ledger) if run.direction == "forward" else {}
    return {
        "run": {
            "plugin": run.plugin,
            "title": f"{_title(run)}, {_local(run.began)} UTC",
        },
        "band": _band(run, owed),
        "facts": [
            ("Direction", _direction(run.direction)),
            ("Entity and table", f"{pair['entity'] or '?'} / {pair['table_name'] or '?'}"),
            ("Run", f"{run.number}, {run.plugin} {version('actito-didomi')}"),
            ("Began", f"{_local(run.began)} UTC"),
            ("Time", show_seconds(seconds)),
            ("Exit status", f"{run.exit_status} ({run.outcome})"),
        ],
        "flow": _flow(run),
        "changes": _changes(run, earlier, held),
        "changes_of": "Subscription" if run.direction == "forward" else "Choice",
        "shows_held": bool(held),
        "most_counted": _MOST_COUNTED,
        "latency": _latency(counts.get("opt_out_latency") or {}),
        "owed": [group.shown() for group in owed],
        "history": _history(run, runs),
        "effort": _effort(counts, seconds),
    }


def _title(run: RunRow) -> str:
    return f"{_direction(run.direction)}: run {run.number} of {run.plugin}"


def _direction(direction: str) -> str:
    return "Didomi to Actito" if direction == "forward" else "Actito to Didomi"


def _local(micros: int) -> str:
    return f"{to_datetime(micros):%d %B %Y, %H:%M:%S}".lstrip("0")


# What is owed


def _owed(ledger: Ledger, direction: str) -> list[_Group]:
    """Return the people to whom something is owed, by the reason; most opt-outs first."""
    groups: dict[str, _Group] = {}
    for key, person in _people(ledger, _FLAGS[direction] | Owed.DEFERRED):
        if not person.owed & _FLAGS[direction] and direction != "forward":
            continue
        retry = person.retries.get("actito" if direction == "forward" else "didomi")
        code = _reason(person, direction)
        group = groups.setdefault(code, _Group(code))
        since = retry.first_at if retry is not None else 0
        is_opt_out = bool(person.owed & _OPT_OUTS[direction])
        group.add(since, ledger.hash(key), opt_out=is_opt_out)
    for reject in ledger.list_rejects(limit=_MOST_COUNTED):
        group = groups.setdefault(reject.code, _Group(reject.code))
        name = ledger.hash(reject.person) if reject.person else f"reject {reject.number}"
        group.add(reject.details.first_at, name, opt_out=reject.opt_out)
    return sorted(groups.values(), key=lambda g: (g.code in _QUIET, -g.opt_outs, -g.count))


def _people(ledger: Ledger, flags: Owed) -> Iterator[tuple[str, Person]]:
    after = None
    while found := ledger.owed(flags, after=after):
        yield from found
        after = found[-1][0]


def _reason(person: Person, direction: str) -> str:
    missing = Owed.NO_PROFILE if direction == "forward" else Owed.NO_USER
    if person.owed & missing:
        return "no_profile" if direction == "forward" else "no_user"
    retry = person.retries.get("actito" if direction == "forward" else "didomi")
    if retry is not None:
        return retry.code
    if not person.owed & _FLAGS[direction]:
        return "deferred"
    return "not_yet_written"


# The band across the top


def _band(run: RunRow, owed: Sequence[_Group]) -> dict[str, str]:
    """Return the colour and the sentence of the band."""
    late = sum(g.opt_outs for g in owed if g.code.partition(":")[0] not in _QUIET)
    waiting = sum(g.opt_outs for g in owed if g.code in _QUIET)
    there = _SYSTEMS[run.direction]
    updated = int(run.counts.get("updated", 0)) + int(run.counts.get("created", 0))
    updated += int(run.counts.get("imported", 0))
    done = f"{_people_of(updated)} updated"
    colour = _colour(run)
    if late:
        verb = "opt-out is" if late == 1 else "opt-outs are"
        sentence = f"{late:,} {verb} NOT written to {there}; see below"
        colour = "bad"
    elif run.exit_status == 5:  # noqa: PLR2004 - a mistake was found
        sentence = f"The settings are probably wrong ({run.counts.get('code')}); {done}"
    elif run.exit_status not in {0, 3, 4}:
        code = run.counts.get("code")
        sentence = f"The run did not finish ({run.outcome}{f', {code}' if code else ''}); {done}"
    elif run.exit_status == 4:  # noqa: PLR2004 - changes were deferred
        sentence = f"Every opt-out is written; other changes wait ({run.counts.get('code')})"
    else:
        sentence = f"{done}; every opt-out is written"
        if silent := len(_silent(run)):
            colour = "warn"
            sentence += f"; {silent} mapping{'' if silent == 1 else 's'} met no value"
    if waiting and not late:
        missing = "a profile in Actito" if run.direction == "forward" else "a user in Didomi"
        verb = "opt-out waits" if waiting == 1 else "opt-outs wait"
        sentence = f"{sentence.replace('every opt-out', 'every other opt-out')}; {waiting:,} "
        sentence += f"{verb} for {missing}"
    return {"colour": colour, "sentence": sentence[0].upper() + sentence[1:]}


def _colour(run: RunRow) -> str:
    return "bad" if run.exit_status is None else _COLOURS.get(run.exit_status, "bad")


def _people_of(count: int) -> str:
    return "1 person" if count == 1 else f"{count:,} people"


# What became of records and people


def _flow(run: RunRow) -> Any:
    """Return the drawing of what became of records and people; None where there were none."""
    counts = run.counts
    records, people = int(counts.get("records", 0)), int(counts.get("people", 0))
    opt_outs: Mapping[str, int] = counts.get("opt_outs") or {}
    missing = "no profile" if run.direction == "forward" else "unknown to Didomi"
    written = sum(int(counts.get(name, 0)) for name in _WRITTEN[run.direction])
    outcomes = [
        Part("written", written, opt_outs.get("written", 0), bar="good"),
        Part("unchanged", int(counts.get("unchanged", 0)), bar="good"),
        Part(missing, int(counts.get("unmatched", 0)), opt_outs.get("no_profile", 0)),
        Part("deferred", int(counts.get("deferred", 0)), opt_outs.get("deferred", 0), bar="warn"),
        Part("rejected", int(counts.get("rejected", 0)), opt_outs.get("rejected", 0), bar="bad"),
    ]
    if not records and not any(part.count for part in outcomes):
        return None
    skipped = [
        Part(f"skipped: {name.replace('_', ' ')}", int(count), colour="skip")
        for name, count in sorted((counts.get("skipped") or {}).items(), key=lambda i: -i[1])
    ]
    return draw(records, skipped, Part("people", people), outcomes)


_WRITTEN = {"forward": ("updated", "created", "imported"), "reverse": ("updated",)}


# What changed


def _held(ledger: Ledger) -> dict[str, tuple[Path, int]]:
    """Return how many people are subscribed, by the place of the field; empty for too many."""
    if ledger.count_people() > _MOST_COUNTED:
        return {}
    fields = ledger.mapped_fields()
    on: Counter[int] = Counter()
    for held in ledger.held_in_actito():
        for opt_ins, _ in held:
            on[opt_ins] += 1
    return {
        place: (path, sum(count for mask, count in on.items() if mask >> number & 1))
        for number, (path, place) in enumerate(fields)
    }


def _changes(
    run: RunRow, earlier: Sequence[RunRow], held: Mapping[str, tuple[Path, int]]
) -> list[dict[str, Any]]:
    """Return one row per subscription, or choice in Didomi."""
    changes: Mapping[str, Mapping[str, int]] = run.counts.get("changes") or {}
    named = {describe_field(place).partition(" ")[2]: value for place, value in held.items()}
    silent = {found["id"]: found for found in _silent(run)}
    names = sorted({*changes, *named, *silent})
    most = max(
        (max(change["opt_ins"], change["opt_outs"]) for change in changes.values()), default=1
    )
    rows = []
    for name in names:
        change = changes.get(name, {"opt_ins": 0, "opt_outs": 0})
        ins, outs = change["opt_ins"], change["opt_outs"]
        path, now = named.get(name, ((), 0))
        is_unmapped = path[:1] == ("actito",)
        note, style = _note(name, ins + outs, earlier), ""
        if name in silent:
            note, style = f"no record holds {silent[name]['value']}", "red"
            if nearest := silent[name].get("nearest"):
                note += f"; seen: {nearest}"
        elif is_unmapped:
            note, style = "not mapped", "grey"
        rows.append(
            {
                "name": name,
                "path": ""
                if is_unmapped
                else " / ".join(part for part in path[1:] if part != "enabled"),
                "opt_ins": ins,
                "opt_outs": outs,
                "left": round(100 * ins / most, 1) if most else 0,
                "right": round(100 * outs / most, 1) if most else 0,
                "before": max(now - ins + outs, 0),
                "now": now,
                "note": note,
                "style": style,
            }
        )
    return sorted(rows, key=lambda row: (row["style"] == "grey", row["style"] != "red"))


def _silent(run: RunRow) -> list[Mapping[str, Any]]:
    """Return the mappings for which no record held a value."""
    return [found for found in run.counts.get("mappings") or () if found.get("is_silent")]


def _note(name: str, count: int, earlier: Sequence[RunRow]) -> str:
    """Return an arrow where a run changed far more than runs usually do."""
    usual = [
        sum((other.counts.get("changes") or {}).get(name, {}).values())
        for other in earlier[:_COMPARED]
        if other.ended is not None
    ]
    if len(usual) < _LARGE:
        return ""
    middle = statistics.median(usual)
    if middle and count > _LARGE * middle:
        return f"▲ usually {middle:,.0f} changes"
    return ""


# Latency, history, requests


def _latency(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the times of opt-outs, with their places on a logarithmic scale."""
    if not found.get("count"):
        return None
    least, most = 1.0, max(60.0, float(found["worst"]) * 1.3)

    def place(seconds: float) -> float:
        share = math.log(max(seconds, least) / least) / math.log(most / least)
        return round(20 + 900 * share, 1)

    marks = [1, 60, 3_600, 86_400, 30 * 86_400, 365 * 86_400]
    ticks = [
        {"x": place(mark), "label": label}
        for mark, label in zip(marks, ("1 s", "1 min", "1 h", "1 d", "30 d", "1 year"), strict=True)
        if mark <= most
    ]
    return {**found, "ticks": ticks, "dots": [place(value) for value in found["quantiles"]]}


def _history(run: RunRow, runs: Sequence[RunRow]) -> dict[str, Any]:
    """Return the last runs as bars, the newest on the right, with gaps where one is missing."""
    shown = [other for other in runs if other.number <= run.number][:_RUNS][::-1]
    gaps = [after.began - before.began for before, after in pairwise(shown)]
    usual = statistics.median(gaps) if gaps else 0
    slots: list[RunRow | None] = []
    for number, other in enumerate(shown):
        if number and len(gaps) > _LARGE and gaps[number - 1] > _LARGE * max(usual, 1_000_000):
            slots.append(None)
        slots.append(other)
    slots = slots[-_RUNS:]
    most = max((int(r.counts.get("people", 0)) for r in slots if r is not None), default=0)
    step = 900 / max(_RUNS, 1)
    bars = []
    for number, slot in enumerate(slots):
        if slot is None:
            continue
        people = int(slot.counts.get("people", 0))
        height = max(3.0, 56 * people / most) if most else 3.0
        status = slot.exit_status
        bars.append(
            {
                "x": round(20 + (_RUNS - len(slots) + number) * step + 3, 1),
                "y": round(70 - height, 1),
                "width": round(step - 6, 1),
                "height": round(height, 1),
                "colour": _colour(slot),
                "title": f"run {slot.number}, {show_time(slot.began)}: {_people_of(people)}, "
                + ("not finished" if status is None else f"exit {status} ({slot.outcome})"),
            }
        )
    return {
        "bars": bars,
        "first": _local(shown[0].began).rpartition(":")[0] if len(bars) >= _APART else "",
        "first_x": bars[0]["x"] if bars else 0,
        "last": _local(run.began).rpartition(":")[0],
        "has_gap": None in slots,
    }


def _effort(counts: Mapping[str, Any], seconds: float) -> list[tuple[str, str]]:
    """Return what the run cost."""
    requests = int(counts.get("requests", 0))
    found = [
        ("Requests", f"{requests:,}"),
        ("Repeated", f"{int(counts.get('retries', 0)):,}"),
        ("Per minute", f"{requests / max(seconds / 60, 1):,.0f} on average"),
    ]
    if "imports" in counts:
        found.append(("Imports", f"{int(counts['imports']):,}"))
    if "posted" in counts:
        found.append(("Events posted", f"{int(counts['posted']):,}"))
    return found
