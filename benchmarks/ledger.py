"""What the ledger costs on SQLite: CPU of target-actito from gathered records to an import's end.

The same people are written once with a ledger and once without. The parts of target-actito are the
real ones; Actito's responses are made here, in memory, and making them is not counted. Prints one
JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from actito_didomi.actito import Execution
from actito_didomi.actito.table import TableStructure
from actito_didomi.consent.coalesce import Collector, Field, MappedField, Masks
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.fields import ChoiceField
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.plugin.guards import Guards, GuardSettings
from actito_didomi.plugin.looks import LookLearner, ProfileReader
from actito_didomi.plugin.shutdown import Shutdown
from actito_didomi.runtime import Runtime
from target_actito import bulk, delivery
from target_actito.guarding import ChangeGuard
from target_actito.import_records import SessionRecords
from target_actito.learning import Learner
from target_actito.plan import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

KEY, NAME = "customerId", "Subscription"
PAGE, SHARE = 1_000, 100
FLUSH = 200_000
"""People of a flush, as `max_buffered_people` is by default."""
NULLS, YES = 0.3, 0.6
DAY = timedelta(days=1)


class Stopwatch:
    """Adds up CPU time by what is being done; what is done within something isn't counted twice."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Count what is inside under a name."""
        self._switch(name)
        try:
            yield
        finally:
            self._switch(None)

    def _switch(self, name: str | None) -> None:
        now = time.process_time()
        if self._open:
            last = self._open[-1]
            self.seconds[last] = self.seconds.get(last, 0.0) + now - self._since
        if name is None:
            self._open.pop()
        else:
            self._open.append(name)
        self._since = time.process_time()

    def wrap(self, owner: Any, method: str, name: str) -> None:
        """Count the calls of a method under a name."""
        call: Callable[..., Any] = getattr(owner, method)

        def counted(*args: Any, **named: Any) -> Any:
            with self.running(name):
                return call(*args, **named)

        setattr(owner, method, counted)


class Actito:
    """A table whose profiles are here, and which accepts all imports at once."""

    lists_executions = True

    def __init__(self, people: int, choices: int, watch: Stopwatch) -> None:
        draw = random.Random(3)
        self.names = [f"{NAME}{n:02}" for n in range(choices)]
        self.profiles = [draw.getrandbits(choices) for _ in range(people)]
        self.order = list(range(people))
        draw.shuffle(self.order)
        self._watch = watch
        self._rows = 0
        self.imports = 0
        self.rows = 0

    def request(self, *args: Any, params: dict[str, Any], **named: Any) -> SimpleNamespace:
        """Return a page of profiles, as decoded."""
        del args, named
        with self._watch.running("actito"):
            at = params["page"] * PAGE
            return SimpleNamespace(
                body={
                    "total": len(self.profiles),
                    "profiles": [self._profile(n) for n in self.order[at : at + PAGE]],
                }
            )

    def _profile(self, number: int) -> dict[str, Any]:
        state = self.profiles[number]
        return {
            "profileId": number + 1,
            "attributes": {
                KEY: person_id(number),
                "creationMoment": "2024-05-01T10:00:00",
                "lastName": "Doe",
            },
            "subscriptions": {name: bool(state >> n & 1) for n, name in enumerate(self.names)},
        }

    def start(self, path: Path, columns: Sequence[str]) -> str:
        """Accept a file."""
        del path, columns
        self.imports += 1
        return str(self.imports)

    def get_execution(self, execution_id: str) -> Execution:
        """Say that it was carried out."""
        return Execution(execution_id, True, None, False, None)

    def find_running(self, name: Any) -> list[str]:
        """Say that none is under way."""
        del name
        return []

    def carry_out(self, changes: Sequence[Any]) -> None:
        """Change profiles as an import did."""
        self.rows += len(changes)
        bit = {name: 1 << n for n, name in enumerate(self.names)}
        for change in changes:
            number = int(change.person[5:], 16) * _BACK % 2**32
            for field, value in zip(change.fields, change.values, strict=True):
                own = bit[field.name]
                state = self.profiles[number]
                self.profiles[number] = state | own if value.value else state & ~own


_SPREAD = 2_654_435_761
_BACK = pow(_SPREAD, -1, 2**32)


def person_id(number: int) -> str:
    """Return the key of a person; in no order."""
    return f"cust-{number * _SPREAD % 2**32:08x}"


class Bench:
    """target-actito from its collector on, with a ledger or without."""

    def __init__(self, folder: Path, people: int, choices: int, *, with_ledger: bool) -> None:
        self.watch = watch = Stopwatch()
        self.choices = choices
        self.actito = actito = Actito(people, choices, watch)
        self.runtime = runtime = Runtime()
        self.path = folder / "ledger.db"
        mapped = [MappedField(Field("subscription", name), False, True) for name in actito.names]
        self.masks = Masks(mapped)
        attributes: Any = None
        self.collector = Collector(self.masks, attributes, for_ledger=with_ledger)
        limits = Limits(mixed_columns=True)
        self.settings: Any = SimpleNamespace(
            target=SimpleNamespace(max_buffered_people=FLUSH),
            limits=limits,
            lookup_calls=1000,
            upsert_mode=False,
            actito=SimpleNamespace(user_unique_key=KEY),
            bulk=SimpleNamespace(bulk_poll_interval=0.001, bulk_timeout=60),
            client=SimpleNamespace(retry_max_wait=1),
        )
        self.shutdown = Shutdown(runtime)
        events: Any = SimpleNamespace(
            on_import=lambda result: actito.carry_out(result.changes),
            on_unmatched=print,
            on_result=print,
        )
        self.events = events
        imports: Any = actito
        workspace: Any = SimpleNamespace(folder=folder)
        writer: Any = SimpleNamespace(key_of=lambda spelling: spelling, write=lambda *_: None)
        follow: Any = lambda execution_id: self.bulk.follow(execution_id)  # noqa: E731, PLW0108
        self.delivery: delivery.Delivery | None = None
        if with_ledger:
            self.delivery = self._connect(writer)
            records: Any = self.delivery.import_records(imports, workspace, follow)
        else:
            records = SessionRecords(imports, workspace, runtime, follow)
        self.bulk = bulk.BulkWriter(
            imports, writer, records, self.settings, shutdown=self.shutdown, runtime=runtime
        )
        self.bulk._sleep = lambda _: None  # type: ignore[method-assign]  # noqa: SLF001
        watch.wrap(events, "on_import", "actito")
        if self.delivery is not None:
            self.delivery.use_imports(self.bulk, records)
            for method, name in PASSES.items():
                for owner in (self.delivery, self.looks, records, self.bulk):
                    if hasattr(owner, method):
                        watch.wrap(owner, method, name)

    def _connect(self, writer: Any) -> delivery.Delivery:
        """Open a ledger, and prepare writing what it says is owed."""
        scope = LedgerScope("organization", "gdpr", "demo", "Profiles")
        url = f"sqlite:///{self.path}"
        settings = LedgerSettings(ledger_url=url, ledger_key="key", baseline="didomi")
        self.ledger = ledger = Ledger.open(settings, scope, self.runtime)
        fields = [
            ChoiceField(
                "subscription", name, ("consents", "purposes", f"purpose-{name}", "enabled"),
                f"a:subscription:{name}", opt_out=False, opt_in=True,
            )
            for name in self.actito.names
        ]  # fmt: skip
        bits = ledger.number_fields(fields)
        structure = TableStructure("demo", "1", "Profiles", {}, tuple(self.actito.names))
        reader = ProfileReader(structure, KEY, "exact", timezone.utc, fields)  # type: ignore[arg-type]
        run = "0123456789ab"
        self.looks = LookLearner(ledger, reader, run, fields, bits)
        session: Any = self.actito
        guards = Guards(GuardSettings(max_opt_in_pct=90))
        guard = ChangeGuard(guards, {Field("subscription", f.name): True for f in fields})
        learner = Learner(fields, ledger.rules, ledger.key, bits, guard)
        return delivery.Delivery(
            ledger=ledger, learner=learner, looks=self.looks, writer=writer, run=run,
            guard=guard, session=session, structure=structure, settings=self.settings,
            events=self.events, shutdown=self.shutdown, runtime=self.runtime,
        )  # fmt: skip

    def gather(self, numbers: Sequence[int], days_ago: int, seed: int) -> None:
        """Gather an event of each person."""
        draw = random.Random(seed)
        started = self.runtime.now() - days_ago * DAY
        size = self.choices
        for number in numbers:
            opt_ins = opt_outs = 0
            for n in range(size):
                if draw.random() >= NULLS:
                    if draw.random() < YES:
                        opt_ins |= 1 << n
                    else:
                        opt_outs |= 1 << n
            at = started + timedelta(milliseconds=draw.randrange(86_000_000))
            mask = opt_ins | opt_outs << size
            user = f"{number * 2_654_435_761 % 2**48:012x}"
            self.collector.put(number + 1, [(person_id(number), (at, mask, None, user))])

    def flush(self) -> None:
        """Write what is gathered, as the target does at the end of a run."""
        gc.freeze()
        gc.set_threshold(FLUSH)
        gc.enable()
        with self.watch.running("other"):
            if self.delivery is None:
                with self.watch.running("fold"):
                    changes = self.collector.take()
                with self.watch.running("plan"):
                    plan = self.bulk.plan(changes)
                self.bulk.write(plan, lambda _: None, self.events.on_import)
            else:
                with self.watch.running("fold"):
                    people = self.collector.take_layers()
                self.delivery.write(people)
        gc.disable()


PASSES = {
    "learn": "learn",
    "_next": "choose",
    "look_at_table": "look",
    "_list_table": "look",
    "begin_at_once": "rows",
    "_load": "file",
    "_still_due": "decide",
    "plan": "plan",
    "begin": "intent",
    "ended": "end",
}


def measure(folder: Path, people: int, choices: int, *, with_ledger: bool) -> dict[str, Any]:
    """Return microseconds per person by passes: of a first load, of 1 % changed, and of none."""
    bench = Bench(folder, people, choices, with_ledger=with_ledger)
    watch, found = bench.watch, {}
    numbers = list(range(people))
    random.Random(5).shuffle(numbers)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    changed = random.Random(7).sample(range(people), people // SHARE)
    for name, some, days_ago in (("first", numbers, 9), ("scattered", changed, 1)):
        watch.seconds = {}
        bench.actito.rows = 0
        if bench.delivery is not None:
            bench.delivery._looked_at = None  # noqa: SLF001 - it is another run
        for start in range(0, len(some), FLUSH):
            bench.gather(some[start : start + FLUSH], days_ago, days_ago)
            bench.flush()
        found[name] = {part: s / len(some) * 1e6 for part, s in watch.seconds.items()}
        found[name].pop("actito", None)
        found[f"{name}_rows"] = bench.actito.rows / len(some)
        if name == "first" and with_ledger:
            found["own_mb"] = own
            found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            with bench.ledger._store.read() as transaction:  # noqa: SLF001
                pages = transaction.one("PRAGMA page_count")[0]
                size = pages * transaction.one("PRAGMA page_size")[0]
            found["bytes"] = size / people
    if bench.delivery is not None:
        watch.seconds = {}
        bench.delivery.look_at_table(())
        found["look"] = watch.seconds["look"] / people * 1e6
        bench.ledger.close()
    return found


def main(people: int, choices: int) -> None:
    """Measure, and print the result."""
    gc.disable()
    found = {}
    for with_ledger in (False, True):
        with tempfile.TemporaryDirectory() as name:
            key = "with" if with_ledger else "without"
            found[key] = measure(Path(name), people, choices, with_ledger=with_ledger)
    found["load"] = os.getloadavg()[0]
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
