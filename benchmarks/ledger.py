"""What the ledger costs on SQLite: CPU of this process around its calls, and bytes on disk.

Prints one JSON object. Making the data is not measured.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from actito_didomi.consent.coalesce import ChoiceLayer, PersonLayers
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.entries import Intent, begin_write
from actito_didomi.consent.fields import ChoiceField
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.owing import find_due
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.runtime import Runtime
from target_actito.learning import Learner

if TYPE_CHECKING:
    from collections.abc import Iterator

T = 1_790_000_000_000_000
BATCH = 50_000
SHARE = 100
ORDINARY = 50_000


class Stopwatch:
    """Adds up CPU time, of user and system."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is inside."""
        started = time.process_time()
        yield
        self.seconds += time.process_time() - started


def fields(choices: int) -> list[ChoiceField]:
    """Make mapped fields."""
    return [
        ChoiceField(
            "subscription",
            f"Subscription{n}",
            ("consents", "purposes", f"purpose-{n}", "enabled"),
            f"a:subscription:Subscription{n}",
            opt_out=False,
            opt_in=True,
        )
        for n in range(choices)
    ]


def person(number: int, choices: int, at: int, draw: random.Random) -> tuple[str, PersonLayers]:
    """Make one event of a person, who is named in no order."""
    key = f"cust-{number * 2_654_435_761 % 2**32:08x}"
    opt_ins = draw.getrandbits(choices)
    layer = ChoiceLayer(at, opt_ins, ~opt_ins & (1 << choices) - 1, number % 2**32, 0)
    return key, PersonLayers(key, 0, (layer,), {})


def main(people: int, choices: int) -> None:
    """Measure, and print the result."""
    draw = random.Random(1)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ledger.db"
        settings = LedgerSettings(ledger_url=f"sqlite:///{path}", ledger_key="key")
        ledger = Ledger.open(settings, LedgerScope(), Runtime())
        learner = Learner(fields(choices), ledger.rules, ledger.key)
        first = Stopwatch()
        for start in range(0, people, BATCH):
            part = [
                person(n, choices, T + draw.randrange(10**12), draw)
                for n in range(start, min(people, start + BATCH))
            ]
            with first.running():
                left = ledger.learn_new(part, learner.paths, T + 10**13, learner.digest)
            assert not left  # noqa: S101
        with ledger._store.read() as transaction:  # noqa: SLF001
            pages = transaction.one("PRAGMA page_count")[0]
            size = pages * transaction.one("PRAGMA page_size")[0]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        learning, writing = Stopwatch(), Stopwatch()
        changed = [draw.randrange(people) for _ in range(people // SHARE)]
        found = [person(n, choices, T + 10**12 + n, draw) for n in set(changed)]
        with learning.running():
            left = ledger.learn_new(found, learner.paths, T + 10**13, learner.digest)
            with ledger.change([found[n][0] for n in left]) as change:
                for n in left:
                    learner.learn(change.people[found[n][0]], found[n][1], T + 10**13)
        with writing.running():
            number = ledger.add_import("file.csv", T)
            with ledger.change([key for key, _ in found]) as change:
                for who in change.people.values():
                    for field, act in find_due(who, learner.choice_fields, ledger.rules):
                        intent = Intent(act.value, T + 10**13, "1", number)
                        begin_write(who.entries[field.path], field.place, intent, ledger.rules)
                    learner.flag(who)
            ledger.set_import(number, state="ended", ended=T + 10**13 + 1)
        reading = Stopwatch()
        keys = sorted(key for key, _ in (person(n, choices, T, draw) for n in range(BATCH)))
        with reading.running():
            for start in range(0, len(keys), 1000):
                ledger.read(keys[start : start + 1000])
        ledger.close()
        ordinary = Stopwatch()
        settings = LedgerSettings(ledger_url=f"sqlite:///{name}/other.db", ledger_key="key")
        ledger = Ledger.open(settings, LedgerScope(), Runtime())
        part = [person(n, choices, T + n, draw) for n in range(ORDINARY)]
        with ordinary.running(), ledger.change([key for key, _ in part]) as change:
            for key, said in part:
                learner.learn(change.people[key], said, T + 10**13)
        ledger.close()
    print(
        json.dumps(
            {
                "first_load_us": first.seconds / people * 1e6,
                "bytes": size / people,
                "peak_mb": peak,
                "ordinary_us": ordinary.seconds / ORDINARY * 1e6,
                "learn_us": learning.seconds / len(found) * 1e6,
                "intents_us": writing.seconds / len(found) * 1e6,
                "read_us": reading.seconds / len(keys) * 1e6,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
