"""Measures this project next to plain Singer plugins, in one run, and prints Markdown tables.

`make bench` runs all; `make bench ARGS=--quick` leaves out what takes minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import requests

from actito_didomi.sandbox import actito_tables
from actito_didomi.sandbox.app import Sandbox
from actito_didomi.sandbox.options import ACTITO_KEY, SandboxOptions
from benchmarks import data
from tap_didomi.schemas import CONSENT_EVENTS

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
RECORDS, PEOPLE, PEER_RECORDS = 100_000, 33_000, 20_000
SCALE = 60


@dataclass
class Cost:
    """What a process took: seconds of its own and on the clock, and kilobytes at most."""

    cpu: float
    wall: float
    peak: int


def run(command: list[str], log: Path, *, stdin: Path | None = None) -> Cost:
    """Run a command, and measure it alone."""
    with log.open("wb") as err, (stdin or Path(os.devnull)).open("rb") as source:
        started = time.monotonic()
        process = subprocess.Popen(
            command, stdin=source, stdout=subprocess.DEVNULL, stderr=err, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(log.parent),
                 "XDG_STATE_HOME": str(log.parent)},
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"{command} failed:\n{log.read_text()[-2000:]}")
    return Cost(used.ru_utime + used.ru_stime, wall, used.ru_maxrss)


def python(script: str, *arguments: str) -> list[str]:
    """Make the command that runs one of the scripts here."""
    return [sys.executable, str(ROOT / "benchmarks" / script), *arguments]


class Server:
    """A sandbox with people, in a process of its own.

    Args:
        folder: Where its database lies.
        people: How many profiles.
        options: Further options of the command.
    """

    def __init__(self, folder: Path, people: int, *options: str) -> None:
        database = str(folder / f"sandbox-{people}-{time.monotonic_ns()}.db")
        prepared = Sandbox(SandboxOptions(database=database))
        prepared.database.run("BEGIN")
        for number in range(people):
            attributes = {"customerId": data.person_id(number), "lastName": "Doe"}
            prepared.actito.profiles.create(actito_tables.TABLES[0], attributes, {})
        prepared.database.run("COMMIT")
        prepared.database.close()
        command = python("server.py", "sandbox", "--port=0", f"--database={database}")
        self._process = subprocess.Popen(
            [*command, *options],
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stderr  # noqa: S101 - it is a pipe
        self._process.stderr.readline()
        self.url = self._process.stderr.readline().split()[1]

    def __enter__(self) -> Server:  # noqa: PYI034
        """Start."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self._process.terminate()
        self._process.wait()

    def stats(self) -> dict[str, Any]:
        """Read the counts of calls."""
        address = self.url.removesuffix("/actito")
        found: dict[str, Any] = requests.get(f"{address}/sandbox/stats", timeout=60).json()
        return dict(found["actito"])

    def wrong(self, expected: dict[str, dict[str, bool]]) -> int:
        """Count the people whose subscriptions aren't as expected."""
        key = {"Authorization": ACTITO_KEY}
        token = requests.get(f"{self.url}/auth/token", headers=key, timeout=60).json()
        found, page = {}, 0
        path = "profiles/v5/entities/demo/profile-tables/16/profiles"
        while True:
            answer = requests.get(
                f"{self.url}/{path}", params={"page": page, "pageSize": 1000}, timeout=60,
                headers={"Authorization": f"Bearer {token['accessToken']}"},
            ).json()  # fmt: skip
            found |= {p["attributes"]["customerId"]: p["subscriptions"] for p in answer["profiles"]}
            if not answer["profiles"]:
                break
            page += 1
        return sum(
            any(found[person][name] is not value for name, value in choices.items())
            for person, choices in expected.items()
        )


def settings(url: str, folder: Path, **more: Any) -> str:
    """Write a configuration of target-actito, and give its path."""
    config = {
        "api_key": ACTITO_KEY,
        "api_url": url,
        "entity_id": "demo",
        "table_name": "Profiles",
        "user_unique_key": "customerId",
        "mappings": data.MAPPINGS,
        "rejects_path": str(folder / "rejects.jsonl"),
        "report_path": str(folder / "report.json"),
        "ledger_url": "none",
        "batch_root": str(folder),
        **more,
    }
    path = folder / f"config-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(config))
    return str(path)


@dataclass
class Case:
    """What is measured.

    Attributes:
        name: The plugin and what it does.
        profile: Profile of the data.
        mappings: How many mappings there are; None where there are none.
        records: How many records are read.
        command: What to run.
        stdin: Its input.
        idle: The same without records.
        peer: Name of the case to compare with.
    """

    name: str
    profile: str
    mappings: int | None
    records: int
    command: list[str]
    stdin: Path
    idle: tuple[list[str], Path]
    peer: str = ""


OTHER_MAPPINGS = {
    "and `country`": {"id": "motherLanguage", "value": "country", "type": "attribute"},
    "and vendors": {"id": "Choice30", "value": "consents_vendors_shop_enabled"},
    "and metadata": {"id": "shop", "value": "metadata_favouriteColour", "type": "attribute"},
}
"""Mappings of what isn't a choice of a channel, purpose or preference, next to three usual ones."""


class Cases:
    """Files for (a), and what is measured with them.

    Args:
        folder: Where files lie.
        url: The sandbox.
    """

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self._url = folder, url
        self._nothing = folder / "nothing.jsonl"
        schema = {"type": "SCHEMA", "stream": "consent_events", "schema": data.SCHEMA}
        self._nothing.write_text(json.dumps({**schema, "key_properties": []}) + "\n")
        self._files = {profile: folder / f"{profile}.jsonl" for profile in data.PROFILES}
        self.sizes = {
            profile: data.write_messages(file, RECORDS, PEOPLE, profile)
            for profile, file in self._files.items()
        }
        data.write_messages(folder / "few.jsonl", PEER_RECORDS, PEOPLE // 5)
        data.write_messages(
            folder / "schema.jsonl", PEER_RECORDS, PEOPLE // 5, schema=CONSENT_EVENTS
        )
        data.write_batch(folder / "events.jsonl.gz", RECORDS, PEOPLE)
        self._export = data.write_export(folder / "export", RECORDS, PEOPLE)
        data.write_export(folder / "few", PEER_RECORDS, PEOPLE // 5)
        data.write_export(folder / "empty", 0, 0)
        for name in ("changes", "none"):
            (folder / name).mkdir()
        data.write_changes(folder / "changes" / "changes.csv", RECORDS, PEOPLE)

    def _config(self, **values: Any) -> str:
        path = self._folder / f"config-{time.monotonic_ns()}.json"
        path.write_text(json.dumps(values))
        return str(path)

    def _messages_of(self, file: Path) -> Path:
        encoding = {"format": "jsonl", "compression": "gzip"}
        message = {"type": "BATCH", "stream": "consent_events", "encoding": encoding}
        path = self._folder / f"{file.name}.messages"
        path.write_text(
            f"{self._nothing.read_text()}{json.dumps({**message, 'manifest': [str(file)]})}\n"
        )
        return path

    def _target(
        self, name: str, profile: str, mappings: list[Any], stdin: Path | None = None, **more: Any
    ) -> Case:
        path = settings(self._url, self._folder, mappings=mappings, **more)
        command = python("ours.py", "reading", "--config", path)
        return Case(
            name,
            profile,
            len(mappings),
            RECORDS,
            command,
            stdin or self._files[profile],
            (command, self._nothing),
            "plain SDK target" if name == "target-actito" else "",
        )

    def _plain(self, name: str, mappings: int, file: str) -> Case:
        command = python(
            "peers.py", "gathering", "--config", self._config(mappings=data.mappings(mappings))
        )
        idle = command, self._nothing
        stdin = self._folder / file
        return Case(name, "realistic", mappings, PEER_RECORDS, command, stdin, idle)

    def _tap(self, name: str, program: list[str], folder: str, count: int, peer: str = "") -> Case:
        def command(name: str) -> list[str]:
            path = self._folder / name
            values = {"export_root": f"file://{path}", "ledger_url": "none"}
            if "peers.py" in " ".join(program):
                values = {"root": str(path)}
            return [*program, "--config", self._config(**values)]

        idle = command("empty"), Path(os.devnull)
        return Case(name, "realistic", None, count, command(folder), Path(os.devnull), idle, peer)

    def _changes(self, folder: str) -> list[str]:
        path = settings(
            self._url,
            self._folder,
            change_source="exports",
            export_root=f"file://{self._folder / folder}",
            export_grace=0,
        )
        return [str(BIN / "tap-actito"), "--config", path]

    def all(self) -> list[Case]:
        """Return all that is measured."""
        three, target = data.mappings(3), "target-actito"
        plain_tap = "plain SDK tap, batch export"
        return [
            self._plain("plain SDK target", 3, "few.jsonl"),
            self._plain("plain SDK target", 20, "few.jsonl"),
            self._plain("plain SDK target, tap-didomi's schema", 3, "schema.jsonl"),
            self._target(target, "realistic", three),
            self._target(target, "realistic", data.mappings(20)),
            *(
                self._target(
                    f"{target}, for the ledger", "realistic", data.mappings(count),
                    ledger_url=f"sqlite:///{self._folder / 'ledger.db'}",
                )
                for count in (3, 20)
            ),
            self._target(target, "large", data.mappings(20)),
            self._target(target, "friendly", three),
            *(
                self._target(f"{target}, {name}", "realistic", [*three, mapping])
                for name, mapping in OTHER_MAPPINGS.items()
            ),
            self._target(
                f"{target}, `validate_records`", "realistic", three, validate_records=True
            ),
            self._target(
                f"{target}, BATCH of events", "realistic", three,
                self._messages_of(self._folder / "events.jsonl.gz"),
            ),
            self._target(
                f"{target}, BATCH of export lines", "realistic", three,
                self._messages_of(self._export),
            ),
            self._tap(plain_tap, python("peers.py", "export"), "few", PEER_RECORDS),
            self._tap(
                "tap-didomi, batch export",
                [sys.executable, "-m", "tap_didomi"], "export", RECORDS, plain_tap,
            ),
            Case(
                "tap-actito, changes to events", "rows of CSV", 4, RECORDS,
                self._changes("changes"), Path(os.devnull),
                (self._changes("none"), Path(os.devnull)),
            ),
        ]  # fmt: skip


def record_path(folder: Path, attempts: int) -> str:
    """(a) From messages to changes ready to be written, and from files to messages."""
    rates: list[tuple[Case, float]] = []
    with Server(folder, 0, "--no-limits") as server:
        cases = Cases(folder, server.url)
        for case in cases.all():
            # The least of several attempts, with and without records, each by itself: a difference
            # of two that happened to be taken together would be as noisy as both.
            full, idle = (
                min(run(command, folder / "log", stdin=stdin).cpu for _ in range(attempts))
                for command, stdin in ((case.command, case.stdin), case.idle)
            )
            rates.append((case, case.records / (full - idle)))
    lines = [
        "| path | profile | bytes | mappings | records/s | ratio |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for case, rate in rates:
        same = case.profile, case.mappings
        base = [r for c, r in rates if c.name == case.peer and (c.profile, c.mappings) == same]
        lines.append(
            f"| {case.name} | {case.profile} | {cases.sizes.get(case.profile, '')} | "
            f"{case.mappings or ''} | {rate:,.0f} | {f'{rate / base[0]:.0f}' if base else ''} |"
        )
    return "\n".join(lines)


def end_to_end(folder: Path, sizes: list[int]) -> str:
    """(b) From messages to profiles, at Actito's documented limits."""
    lines = [
        "| changes | | calls | of them looks at imports | time | wrong profiles |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    rate = 0.0
    for size in sizes:
        messages = folder / f"messages-{size}.jsonl"
        data.write_messages(messages, size, size)
        expected = data.expected(size, size)
        with Server(folder, size) as server:
            command = [str(BIN / "target-actito"), "--config", settings(server.url, folder)]
            cost = run(command, folder / "log", stdin=messages)
            stats = server.stats()
            looks = stats["routes"].get("execution", {}).get("calls", 0)
            lines.append(
                f"| {size:,} | target-actito | {stats['calls']:,} | {looks} | "
                f"{_time(cost.wall)} | {server.wrong(expected)} |"
            )
        if size <= 1000:
            limits = [
                "--calls-per-minute",
                str(100 * SCALE),
                "--switch",
                f"slowdown={0.25 / SCALE}",
            ]
            with Server(folder, size, *limits, "--switch", f"slowest={30 / SCALE}") as server:
                config = folder / "plain.json"
                config.write_text(json.dumps({"api_url": server.url, "api_key": ACTITO_KEY}))
                command = python("peers.py", "profiles", "--config", str(config))
                taken = run(command, folder / "log", stdin=messages).wall * SCALE
                rate = size / taken
                calls = server.stats()["calls"]
                wrong = server.wrong(expected)
                lines.append(f"| | plain target | {calls:,} | | {_time(taken)} | {wrong} |")
        else:
            lines.append(
                f"| | plain target, extrapolated | {size + 1:,} | | {_time(size / rate)} | |"
            )
    return "\n".join(lines)


def memory(folder: Path) -> str:
    """(c) Most memory while reading, coalescing, planning and making files."""
    batch = folder / "million.jsonl.gz"
    data.write_batch(batch, 1_000_000, 300_000)
    lines = ["| events | people | resident at most | ratio |", "| ---: | ---: | ---: | ---: |"]
    first = 0
    with Server(folder, 0, "--no-limits") as server:
        config = settings(server.url, folder, batch_root=str(folder))
        for times in (1, 10):
            schema = {"type": "SCHEMA", "stream": "consent_events", "schema": data.SCHEMA}
            encoding = {"format": "jsonl", "compression": "gzip"}
            message = {"type": "BATCH", "stream": "consent_events", "encoding": encoding}
            path = folder / "memory.jsonl"
            path.write_text(
                f"{json.dumps({**schema, 'key_properties': []})}\n"
                f"{json.dumps({**message, 'manifest': [str(batch)] * times})}\n"
            )
            command = python("ours.py", "planning", "--config", config)
            peak = run(command, folder / "log", stdin=path).peak
            first = first or peak
            lines.append(
                f"| {times * 1_000_000:,} | 300,000 | {peak / 1024:,.0f} MB | {peak / first:.2f} |"
            )
    return "\n".join(lines)


def ledger(people: int) -> str:
    """(d) What the ledger costs on SQLite, per person, next to a run without one."""
    parts = ("fold", "look", "rows", "file", "plan", "choose", "end", "other")
    lines = [
        f"| choices | | {' | '.join(parts)} | with | without | difference |",
        f"| ---: | --- {'| ---: ' * (len(parts) + 3)}|",
    ]
    sizes: list[str] = []
    for choices in (4, 20):
        command = python("ledger.py", str(people), str(choices))
        done = subprocess.run(
            command, check=True, capture_output=True, cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        found = json.loads(done.stdout)
        own = found["with"]
        own["scattered"]["look"] = own["look"]  # of one profile; those of all others look the same
        for name, text in (("first", "first load"), ("scattered", "1 % changed")):
            taken, without = own[name], sum(found["without"][name].values())
            figures = [taken.get(part, 0.0) for part in parts]
            figures += [sum(figures), without, sum(figures) - without]
            cells = " | ".join(f"{figure:.1f}" for figure in figures)
            lines.append(f"| {choices} | {text} | {cells} |")
        sizes.append(
            f"{choices} choices: {own['bytes']:.0f} bytes per person; {own['peak_mb']:.0f} MB "
            f"resident at most, {own['own_mb']:.0f} of them before the first record; a look at an "
            f"unchanged profile {own['look']:.1f} µs; load {found['load']:.1f}."
        )
    return "\n".join([*lines, "", f"{people:,} people.", *sizes])


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> None:
    """Run all, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Leave out what takes minutes.")
    parser.add_argument("--only", choices="abcd", help="Run one part only.")
    given = parser.parse_args()
    quick, parts = given.quick, given.only or ("abd" if given.quick else "abcd")
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, {ram:.0f} GiB, "
        f"Python {platform.python_version()}\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "a" in parts:
            print("(a) Record path, one core, by CPU time\n", flush=True)
            print(record_path(folder, 1 if quick else 5) + "\n", flush=True)
        if "b" in parts:
            print("(b) End to end at documented limits\n", flush=True)
            print(end_to_end(folder, [1000] if quick else [100, 1000, 10_000, 100_000]) + "\n")
        if "c" in parts:
            print("(c) Memory\n", flush=True)
            print(memory(folder) + "\n", flush=True)
        if "d" in parts:
            print("(d) The ledger on SQLite, CPU time per person\n", flush=True)
            print(ledger(50_000 if quick else 1_000_000))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
