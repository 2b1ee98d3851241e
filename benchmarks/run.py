"""Measures this project beside plain Singer targets, in one run, and prints Markdown tables.

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
        command = [str(BIN / "actito-didomi"), "sandbox", "--port=0", f"--database={database}"]
        self._process = subprocess.Popen(
            [*command, *options], stderr=subprocess.PIPE, text=True, cwd=ROOT
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
        **more,
    }
    path = folder / f"config-{time.monotonic_ns()}.json"
    path.write_text(json.dumps(config))
    return str(path)


def record_path(folder: Path, tries: int) -> str:
    """(a) Reading, checking, mapping, coalescing, against the plain target."""
    messages, peers = folder / "messages.jsonl", folder / "peer.jsonl"
    different, batch, nothing = (folder / n for n in ("different.jsonl", "b.jsonl.gz", "no.jsonl"))
    data.write_messages(messages, RECORDS, PEOPLE)
    data.write_messages(peers, PEER_RECORDS, PEOPLE // 5)
    real = folder / "real.jsonl"
    data.write_messages(real, PEER_RECORDS, PEOPLE // 5, schema=CONSENT_EVENTS)
    data.write_messages(different, RECORDS, PEOPLE, different=True)
    data.write_batch(batch, RECORDS, PEOPLE)
    export = data.write_export(folder / "export", RECORDS, PEOPLE)
    schema = {"type": "SCHEMA", "stream": "consent_events", "schema": data.SCHEMA}
    schema["key_properties"] = []
    nothing.write_text(json.dumps(schema) + "\n")

    def batch_of(file: Path) -> Path:
        encoding = {"format": "jsonl", "compression": "gzip"}
        message = {"type": "BATCH", "stream": "consent_events", "encoding": encoding}
        path = folder / f"{file.name}.messages"
        path.write_text(
            f"{json.dumps(schema)}\n{json.dumps({**message, 'manifest': [str(file)]})}\n"
        )
        return path

    with Server(folder, 0, "--no-limits") as server:
        config = settings(server.url, folder)
        checked = settings(server.url, folder, validate_records=True)
        tap = folder / "tap.json"
        tap.write_text(json.dumps({"export_root": f"file://{folder / 'export'}"}))
        data.write_export(folder / "empty", 0, 0)
        empty = folder / "empty.json"
        empty.write_text(json.dumps({"export_root": f"file://{folder / 'empty'}"}))
        reader = [str(BIN / "tap-didomi")]
        (folder / "changes").mkdir()
        data.write_changes(folder / "changes" / "changes.csv", RECORDS, PEOPLE)
        (folder / "none").mkdir()
        back = [str(BIN / "tap-actito"), "--config"]
        changes, none = (
            settings(
                server.url,
                folder,
                change_source="exports",
                export_root=f"file://{folder / name}",
                export_grace=0,
            )
            for name in ("changes", "none")
        )
        ours = python("ours.py", "reading", "--config", config)
        cases = {
            "plain SDK target": (python("peers.py", "idle"), peers, PEER_RECORDS),
            "plain SDK target, tap-didomi's own schema": (
                python("peers.py", "idle"), real, PEER_RECORDS,
            ),
            "target-actito": (ours, messages, RECORDS),
            "target-actito, `validate_records`": (
                python("ours.py", "reading", "--config", checked), messages, RECORDS,
            ),
            "target-actito, no two consents alike": (ours, different, RECORDS),
            "target-actito, BATCH of events": (ours, batch_of(batch), RECORDS),
            "target-actito, BATCH of export lines": (ours, batch_of(export), RECORDS),
            "tap-didomi, batch export": (
                [*reader, "--config", str(tap)], nothing, RECORDS,
            ),
            "tap-actito, changes to events": ([*back, changes], nothing, RECORDS),
        }  # fmt: skip
        idle = {
            "plain SDK target": (python("peers.py", "idle"), nothing),
            "tap-didomi": ([*reader, "--config", str(empty)], None),
            "tap-actito": ([*back, none], None),
            "target-actito": (ours, nothing),
        }
        # The least of several tries, with and without records, each by itself: a difference of two
        # that happened to be taken together would be as noisy as both.
        least: dict[str, float] = {}
        for _ in range(tries):
            for name, (command, stdin) in idle.items():
                cost = run(command, folder / "log", stdin=stdin).cpu
                least[f"idle {name}"] = min(least.get(f"idle {name}", cost), cost)
            for name, (command, stdin, _) in cases.items():
                cost = run(command, folder / "log", stdin=stdin).cpu
                least[name] = min(least.get(name, cost), cost)
    best = {
        name: count / (least[name] - least[f"idle {name.split(',')[0]}"])
        for name, (_, _, count) in cases.items()
    }
    base = best["plain SDK target"]
    lines = [f"| {n} | {rate:,.0f} | {rate / base:.1f} |" for n, rate in best.items()]
    return "\n".join(["| path | records/s | ratio |", "| --- | ---: | ---: |", *lines])


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
        config = settings(server.url, folder)
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


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main() -> None:
    """Run all, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="Leave out what takes minutes.")
    parser.add_argument("--only", choices="abc", help="Run one part only.")
    given = parser.parse_args()
    quick, parts = given.quick, given.only or ("ab" if given.quick else "abc")
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    print(
        f"{datetime.now(timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, {ram:.0f} GiB, "
        f"Python {platform.python_version()}\n"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "a" in parts:
            print("(a) Record path, one core, by processor time\n", flush=True)
            print(record_path(folder, 1 if quick else 5) + "\n", flush=True)
        if "b" in parts:
            print("(b) End to end at documented limits\n", flush=True)
            print(end_to_end(folder, [1000] if quick else [100, 1000, 10_000, 100_000]) + "\n")
        if "c" in parts:
            print("(c) Memory\n", flush=True)
            print(memory(folder))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
