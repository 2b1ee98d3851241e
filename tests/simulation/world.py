"""The world of a story: Actito and Didomi, people, files, and the jobs that run."""

from __future__ import annotations

import contextlib
import csv
import functools
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, TextIO, cast
from urllib.parse import parse_qs, unquote, urlsplit

import msgspec
import requests
from requests import PreparedRequest, Response
from requests.structures import CaseInsensitiveDict
from singer_sdk.plugin_base import _ConfigInput

from actito_didomi import privacy
from actito_didomi.plugin import target as plugin_target
from actito_didomi.plugin.base import BasePlugin, run_safely
from actito_didomi.runtime import Runtime
from actito_didomi.sandbox import actito_tables
from actito_didomi.sandbox.app import Sandbox
from actito_didomi.sandbox.exports import write_exports
from actito_didomi.sandbox.options import (
    ACTITO_KEY,
    DIDOMI_KEY,
    DIDOMI_SECRET,
    ORGANIZATION,
    SandboxOptions,
)
from simulation.kernel import Hub, Pipe, Process, Violation
from simulation.oracle import Oracle, Write
from simulation.plan import PEOPLE, Decision, Direction, JobPlan, Kind, Place, Plan, draw
from simulation.runtime import STDOUT, SimRuntime, Stdin, StepConnection, to_datetime
from simulation.view import CHANNELS, FIELDS, LedgerView
from tap_actito.tap import TapActito
from tap_didomi.tap import TapDidomi
from target_actito.target import TargetActito
from target_didomi.target import TargetDidomi

TABLE = actito_tables.TABLES[0]
LATE_BOUND = 3600.0
"""Seconds within which a late request is carried out, if it ever is."""
DEFERRED = 4
"""Exit status of a target where opt-ins wait for the setting `baseline`."""
_SAME_TIME = 0.005
OWED = 3
"""Exit status of a target where an opt-out could not be written."""
ROUNDS = 6
"""Rounds of both directions within which everything must come to rest."""
_WRITES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class SideRuntime(Runtime):
    """Clock and draws of one of the two systems."""

    def __init__(self, hub: Hub, skew: float, bytes_of: Callable[[int], bytes]) -> None:
        self._hub = hub
        self._skew = skew
        self._bytes = bytes_of

    def now(self) -> datetime:
        """Return the time by its clock."""
        return to_datetime(self._hub.now + self._skew)

    def monotonic(self) -> float:
        """Return seconds."""
        return self._hub.now

    def token(self, size: int) -> str:
        """Return drawn bytes."""
        return self._bytes(size).hex()

    def uuid(self) -> str:
        """Return a drawn UUID."""
        digits = self._bytes(16).hex()
        return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-8{digits[17:20]}-{digits[20:]}"


@dataclass
class Job:
    """A job that runs: a tap and a target."""

    plan: JobPlan
    tap: Process
    target: Process
    output: Pipe

    @property
    def done(self) -> bool:
        """Whether both processes have ended."""
        return not self.tap.alive and not self.target.alive


@dataclass
class Files:
    """Export files of both systems."""

    folder: Path
    changes: list[tuple[float, int, str, str, bool]] = field(default_factory=list)
    exported: int = 0
    number: int = 0


class World:
    """One story.

    Args:
        plan: What happens where.
        folder: For files; removed at the end.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.setup = setup = plan.setup
        self.folder = folder
        self.hub = Hub()
        self._random = draw(plan.seed, "bytes")
        self.story: list[str] = []
        self.trace: list[str] = []
        self.states: dict[Direction, list[str]] = {"forward": [], "reverse": []}
        self.exit_codes: list[tuple[int, str, int | None]] = []
        self.writing_calls = 0
        self.in_step = False
        options = SandboxOptions(
            database=":memory:",
            limits=False,
            etl_rows_per_second=1000.0,
            event_list_form=draw(plan.seed, "form").choice(["envelope", "total", "list"]),
        )
        self.sandbox = Sandbox(
            options,
            actito=SideRuntime(self.hub, setup.skew_actito, self._bytes),
            didomi=SideRuntime(self.hub, setup.skew_didomi, self._bytes),
            timer=False,
        )
        self.app = self.sandbox.app()
        self.runtime = SimRuntime(self.hub, self, self._bytes)
        self.files = Files(folder)
        self.ledger = LedgerView(folder / "ledger.db", setup)
        self.profile_ids: dict[str, int] = {}
        self.oracle = Oracle(self)
        self._begin()

    def _bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)

    # People

    @property
    def people(self) -> tuple[str, ...]:
        """The people."""
        return PEOPLE[: self.setup.people]

    def users_of(self, person: int) -> list[str]:
        """Return the ids of a person's Didomi users."""
        return [
            f"0000000{person}-0000-4000-8000-00000000000{user}" for user in range(self.setup.users)
        ]

    def _begin(self) -> None:
        setup = self.setup
        for number, person in enumerate(self.people):
            values = [self._first(number, choice) for choice in range(setup.choices)]
            fields = dict(zip(FIELDS, values, strict=False))
            self.profile_ids[person] = self.sandbox.actito.profiles.create(
                TABLE, {"customerId": person, "lastName": "Doe"}, fields
            )
            for user, user_id in enumerate(self.users_of(number)):
                said = dict(zip(CHANNELS, values, strict=False)) if setup.spoken else {}
                self._say(person, user_id, {} if user else said)
        self.oracle.look_around()
        self.hub.now = 86_400.0  # the day before is over

    def _first(self, person: int, choice: int) -> bool:
        return self.setup.first[person * self.setup.choices + choice]

    def _say(self, person: str, user_id: str, said: dict[str, bool], ahead: float = 0) -> None:
        dated = {}
        if ahead:
            created = to_datetime(self.hub.now + self.setup.skew_didomi + ahead)
            dated["created_at"] = created.isoformat(timespec="milliseconds")
        self.sandbox.didomi.consents.add_event(
            ORGANIZATION,
            {
                **dated,
                "user": {"id": user_id, "organization_user_id": person},
                "consents": {"channels": [{"id": k, "enabled": v} for k, v in said.items()]},
            },
        )

    def act(self, decision: Decision) -> None:
        """Do what a person does."""
        number, choice, value = decision.person, decision.choice, bool(decision.value)
        if number >= self.setup.people or choice >= self.setup.choices:
            return
        person = self.people[number]
        last = self.oracle.newest(person, choice)
        if last is not None and self.hub.now - last.at < _SAME_TIME:
            return  # nobody is that quick
        self.hub.tick()
        if decision.side == "actito":
            if self.oracle.cells[person, choice, "actito"] is value:
                return  # a click that changes nothing leaves no trace
            profile = self.profile_ids[person]
            self.sandbox.actito.profiles.change(TABLE, profile, {}, {FIELDS[choice]: value})
            place = "actito"
        else:
            place = self.users_of(number)[decision.user % self.setup.users]
            self._say(person, place, {CHANNELS[choice]: value}, decision.ahead)
        self.oracle.acted(person, choice, place, value=value)
        self.hub.tick()
        where = "in Actito" if decision.side == "actito" else f"in Didomi (user {decision.user})"
        self.record(f"{person} turns {CHANNELS[choice]} {'ON' if value else 'OFF'} {where}")

    # The story

    def record(self, line: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.hub.now:10.3f}  {line}")

    def note(self, line: str) -> None:
        """Add a line to the trace of all steps."""
        self.trace.append(f"{self.hub.now:10.3f}  {line}")

    # Steps

    def _place(self, process: Process) -> Place:
        return (process.job, process.name, process.next_step())

    def _check_no_transaction(self, what: str) -> None:
        process = self.hub.process
        if any(c.in_transaction for c in process.connections if not c._gone):
            self.hub.fail(f"{process.name} makes {what} inside an open transaction")

    def _happen(self, decisions: tuple[Decision, ...], when: str) -> None:
        for decision in decisions:
            if decision.what == "act" and decision.when == when:
                self.act(decision)

    def _end_of(self, decisions: tuple[Decision, ...], when: str) -> Decision | None:
        return next((d for d in decisions if d.what in {"kill", "term"} and d.when == when), None)

    def _strike(self, process: Process, decision: Decision | None, what: str) -> bool:
        """Kill or terminate; return whether the process is dead."""
        if decision is None:
            return False
        if decision.what == "term":
            self.record(f"{process.name} of job {process.job} gets SIGTERM {decision.when} {what}")
            process.terminate()
            return False
        self.record(f"{process.name} of job {process.job} is killed {decision.when} {what}")
        process.kill()
        # A write whose process has died may be taken for the person's opt-out.
        self.oracle.troubled.update(self.ledger.being_written())
        return True

    def request(self, process: Process, request: PreparedRequest, timeout: float) -> Response:
        """Carry out a request."""
        if self.hub.unwinding:
            self.hub.pause()
        self._check_no_transaction("a request")
        place = self._place(process)
        call = Call.read(request)
        decisions = self.plan.decide(place, call.kind, f"{request.method} {call.path}")
        there, home = self.plan.pace(place)
        what = f"{call}"
        self.note(f"{place} {what} {[d.what for d in decisions]}")
        self._happen(decisions, "before")
        if self._strike(process, self._end_of(decisions, "before"), what):
            self.hub.stop_here()
        fate = next((d for d in decisions if d.what not in {"act", "kill", "term"}), None)
        looks = self.oracle.looks_of(process)
        if fate is not None:
            self.record(f"{process.name}: {what}: {fate.what} {fate.value:g}")
            if call.kind == "write" and fate.what != "slow":
                self.oracle.unanswered(process, call.written())
            if fate.what == "slow" and fate.when == "after":
                home += fate.value
            elif fate.what == "slow":
                there += fate.value
            elif fate.what == "lost_before":
                self.hub.pause(there)
                raise requests.ConnectionError
            elif fate.what == "refused":
                self.hub.pause(there + home)
                return _response(int(fate.value), [], b'{"message": "try later"}')
            elif fate.what == "late":
                self.hub.after(
                    min(fate.value, LATE_BOUND - 1.0),
                    lambda: self._serve_late(process, call, looks),
                )
                self.hub.pause(timeout)
                raise requests.Timeout
        if there > timeout:
            self.hub.after(there, lambda: self._serve_late(process, call, looks))
            self.hub.pause(timeout)
            raise requests.Timeout
        box: list[Response] = []
        thread, ticket = self.hub.thread, self.hub.thread.ticket + 1

        comes = fate is None or fate.what == "slow"

        def effect() -> None:
            box.append(self._serve(process, call, looks, comes=comes))
            self._happen(decisions, "after")
            if not self._strike(process, self._end_of(decisions, "after"), what):
                self.hub.after(home, lambda: thread.resume(ticket))

        self.hub.after(there, effect)
        if self._strike(process, self._end_of(decisions, "within"), what):
            self.hub.stop_here()
        self.hub.pause()
        response = box[0]
        if fate is not None and fate.what == "lost_after":
            raise requests.ConnectionError
        if fate is not None and fate.what == "timeout":
            self.hub.pause(max(0.0, timeout - there - home))
            raise requests.Timeout
        if fate is not None and fate.what == "status":
            return _response(int(fate.value), [], b'{"message": "an error"}')
        if fate is not None and fate.what == "half":
            response._content = response.content[: len(response.content) // 2]
        return response

    def commit(
        self, process: Process, effect: Callable[[], None], connection: StepConnection
    ) -> None:
        """Carry out the end of a transaction; before it no other process may run."""
        if self.hub.unwinding:
            self.hub.pause()
        if self.hub.current is None:
            effect()
            return
        if any(
            c.in_transaction for c in process.connections if c is not connection and not c._gone
        ):
            self.hub.fail(f"{process.name} has two open transactions")
        place = self._place(process)
        decisions = self.plan.decide(place, "commit", "commit")
        self.note(f"{place} commit {[d.what for d in decisions]}")
        if self._strike(process, self._end_of(decisions, "before"), "a commit"):
            self.hub.stop_here()
        effect()
        self.oracle.committed(process)
        self._happen(decisions, "before")
        self._happen(decisions, "after")
        if self._strike(process, self._end_of(decisions, "after"), "a commit"):
            self.hub.stop_here()
        if not self.hub.thread.locks:  # else threads that wait for it would seem to hang
            self.hub.pause(self.plan.pace(place)[0] / 20)

    def flush(self, process: Process, pipe: Pipe | None, data: bytes) -> None:
        """Carry out an output."""
        if self.hub.unwinding:
            self.hub.pause()
        assert pipe is not None
        self._check_no_transaction("output")
        place = self._place(process)
        decisions = self.plan.decide(place, "flush", "output")
        self.note(f"{place} output of {len(data)} bytes {[d.what for d in decisions]}")
        self._happen(decisions, "before")
        if self._strike(process, self._end_of(decisions, "before"), "an output"):
            self.hub.stop_here()
        within = self._end_of(decisions, "within")
        pipe.write(data[: len(data) // 2] if within else data)
        if self._strike(process, within, "an output"):
            self.hub.stop_here()
        self._happen(decisions, "after")
        if self._strike(process, self._end_of(decisions, "after"), "an output"):
            self.hub.stop_here()
        self.hub.pause(self.plan.pace(place)[0] / 20)

    # The sandbox

    def _serve(
        self,
        process: Process,
        call: Call,
        looks: dict[str, float],
        *,
        late: bool = False,
        comes: bool = True,
    ) -> Response:
        """Carry out a request in the sandbox; `comes`: its response arrives as it is."""
        self.load_imports()
        request = call.request
        if late:
            token = self._bytes(8).hex()
            tokens = self.sandbox.actito if call.side == "actito" else self.sandbox.didomi
            tokens._tokens[token] = float("inf")
            request.headers["Authorization"] = f"Bearer {token}"
        writes = request.method in _WRITES and not call.path.endswith("/sessions")
        if writes:
            self.writing_calls += 1
        executions = dict(self.sandbox.actito.imports._executions)
        status, headers, body = self._ask(call)
        self.note(f"  {status} {len(body)}{' (late)' if late else ''}")
        for execution_id, execution in self.sandbox.actito.imports._executions.items():
            if execution_id not in executions:
                execution.requested_at += self.setup.import_time
                self.oracle.began_import(execution_id, process, execution, looks)
                self.hub.after(self.setup.import_time + 1.0, self.load_imports)
        if writes:
            how = " (late)" if late else ""
            self.record(f"{process.name} of job {process.job}: {call} -> {status}{how}")
            self.oracle.written(Write(process, call.side, looks, call.written(), late=late))
        elif status == requests.codes.ok and comes:
            self.oracle.looked(process, call.side, call.people(body, self))
        side = self.sandbox.actito if call.side == "actito" else self.sandbox.didomi
        date = side._runtime.now().replace(microsecond=0)
        headers.append(("Date", format_datetime(date, usegmt=True)))
        return _response(status, headers, body)

    def _serve_late(self, process: Process, call: Call, looks: dict[str, float]) -> None:
        """Carry out a request for which nobody waits any more."""
        self._serve(process, call, looks, late=True, comes=False)

    def _ask(self, call: Call) -> tuple[int, list[tuple[str, str]], bytes]:
        request = call.request
        content = call.content
        split = urlsplit(request.url or "")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": "http",
            "path": unquote(split.path),
            "raw_path": split.path.encode(),
            "query_string": split.query.encode(),
            "root_path": "",
            "headers": [
                (k.lower().encode("latin-1"), (v if isinstance(v, bytes) else v.encode("latin-1")))
                for k, v in request.headers.items()
            ],
            "server": ("sandbox", 80),
            "client": ("127.0.0.1", 1),
        }
        sent = False
        found: dict[str, Any] = {"body": b""}

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if sent:
                return {"type": "http.disconnect"}
            sent = True
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                found["status"] = message["status"]
                found["headers"] = message["headers"]
            else:
                found["body"] += message.get("body", b"")

        running = self.app(scope, receive, send)
        try:
            running.send(None)  # type: ignore[attr-defined]
        except StopIteration:
            pass
        else:
            raise RuntimeError("a handler of the sandbox waits")
        headers = [(k.decode(), v.decode()) for k, v in found["headers"]]
        return found["status"], headers, found["body"]

    def load_imports(self) -> None:
        """Load what is due of imports."""
        if not self.sandbox.actito.imports.busy:
            return
        while self.sandbox.actito.load_slice():
            pass
        self.oracle.loaded()

    # Files

    def write_didomi_exports(self) -> None:
        """Write the partitions of all days that are over, as Didomi does."""
        today = to_datetime(self.hub.now + self.setup.skew_didomi).strftime("%Y-%m-%d")
        consents = self.sandbox.didomi.consents
        days = [day for day in consents.dates(ORGANIZATION) if day < today]
        root = self.folder / "didomi"
        root.mkdir(exist_ok=True)
        write_exports(
            consents, str(root), organization=ORGANIZATION, export_id="nightly", days=days
        )

    def write_actito_exports(self) -> None:
        """Write a file with the changes since the last one, as Actito does."""
        root = self.folder / "actito"
        root.mkdir(exist_ok=True)
        rows = self.files.changes[self.files.exported :]
        self.files.exported = len(self.files.changes)
        if not rows and self.files.number:
            return
        self.files.number += 1
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=";")
        writer.writerow(CHANGE_COLUMNS)
        for at, profile, person, name, value in rows:
            second = to_datetime(at + self.setup.skew_actito).strftime("%Y-%m-%d %H:%M:%S")
            writer.writerow(change_row(profile, person, name, second, value=value))
        path = root / f"changes-{self.files.number:04d}.csv"
        path.write_text(text.getvalue(), encoding="utf-8")
        now = to_datetime(self.hub.now).timestamp()
        os.utime(path, (now, now))

    # Jobs

    def config_of(self, plugin: str) -> dict[str, Any]:
        """Return the settings of a plugin."""
        setup = self.setup
        common: dict[str, Any] = {"retry_tries": 3, "retry_seconds": 20, "retry_max_wait": 5}
        database = f"sqlite:///{self.folder / 'ledger.db'}"
        common |= {"ledger_url": database}
        if setup.baseline:
            common["baseline"] = setup.baseline
        actito = {
            "api_key": ACTITO_KEY,
            "api_url": "https://sandbox/actito",
            "entity_id": "demo",
            "table_name": "Profiles",
            "user_unique_key": "customerId",
            "mappings": [
                {"id": name, "value": f"consents_channels_{channel}_enabled"}
                for name, channel in zip(FIELDS, CHANNELS, strict=True)
            ][: setup.choices],
            "time_zone": "UTC",
        }
        didomi = {
            "api_key": DIDOMI_KEY,
            "api_secret": DIDOMI_SECRET,
            "organization_id": ORGANIZATION,
            "api_url": "https://sandbox/didomi/v1",
        }
        rejects = str(self.folder / f"{plugin}-rejects.jsonl")
        if plugin == "target-actito":
            config = {**common, **actito, "rejects_path": rejects, "write_mode": setup.writing}
            config["bulk_empty_cells"] = setup.empty_cells
        elif plugin == "tap-actito":
            config = {**common, **actito, "change_source": setup.actito}
            if "snapshot_url" in TapActito.full_schema()["properties"]:
                config["snapshot_url"] = f"sqlite:///{self.folder / 'snapshot.db'}"
            if setup.actito == "exports":
                config["export_root"] = f"file://{self.folder / 'actito'}"
                config["export_grace"] = 0
        elif plugin == "target-didomi":
            return {**common, **didomi, "rejects_path": rejects}
        elif setup.didomi == "exports":
            return {**common, "export_root": f"file://{self.folder / 'didomi'}"}
        else:
            return {**common, **didomi}
        return config

    def _input(self, direction: Direction, which: str) -> str | None:
        states = self.states[direction]
        if which == "lost" or not states:
            return None
        if which == "old":
            return states[draw(self.plan.seed, "old", len(states)).randrange(len(states))]
        return states[-1]

    def start(self, plan: JobPlan) -> Job:
        """Start a job."""
        self._happen(self.plan.decide((plan.number, "start", 0), "start"), "before")
        if self.setup.didomi == "exports" and plan.direction == "forward":
            self.write_didomi_exports()
        if self.setup.actito == "exports" and plan.direction == "reverse":
            self.write_actito_exports()
        forward = plan.direction == "forward"
        tap, target = (TapDidomi, TargetActito) if forward else (TapActito, TargetDidomi)
        state = self._input(plan.direction, plan.state)
        self.record(
            f"job {plan.number} starts: {plan.direction}, STATE {plan.state if state else 'none'}"
        )
        between, output = Pipe(self.hub), Pipe(self.hub)
        files: dict[str, Any] = {"catalog": self._catalog(tap)}
        if state is not None:
            files["state"] = _Text(state, "state.json")
        first = self._process(plan, tap, files, between)
        second = self._process(plan, target, {"file_input": Stdin(between)}, output)  # type: ignore[arg-type]
        second.on_end.append(between.close_reader)
        second.on_end.append(lambda: self._collect(plan.direction, output))
        return Job(plan, first, second, output)

    def _catalog(self, tap: type[Any]) -> Any:
        if tap is not TapDidomi or self.setup.didomi == "exports":
            return None
        name = "consent_events" if self.setup.didomi == "events" else "consent_users"
        key = (name,)
        if key not in _CATALOGS:
            catalog = TapDidomi(config=self.config_of("tap-didomi")).catalog_dict
            for stream in catalog["streams"]:
                (root,) = (item for item in stream["metadata"] if not item["breadcrumb"])
                root["metadata"]["selected"] = stream["tap_stream_id"] == name
            _CATALOGS[key] = json.dumps(catalog)
        return _Text(_CATALOGS[key], "catalog.json")

    def _process(
        self, plan: JobPlan, plugin: type[BasePlugin], files: dict[str, Any], stdout: Pipe
    ) -> Process:
        process = Process(self.hub, plan.number, plugin.name, self.setup.skew_here)
        process.stdout = stdout
        process.on_end.append(stdout.close_writer)
        config = self.config_of(plugin.name)

        def main() -> None:
            code = 0
            try:
                given = _ConfigInput(config=config)
                run_safely(plugin.name, lambda: plugin.run(given, **files))
                STDOUT.flush()
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except Exception as error:  # noqa: BLE001
                self.hub.fail(f"{plugin.name} raised {error!r}")
            self.record(f"{plugin.name} of job {plan.number} ends with {code}")
            self.exit_codes.append((plan.number, plugin.name, code))
            process.end(code)

        self.hub.start(process, main)
        return process

    def _collect(self, direction: Direction, output: Pipe) -> None:
        text = bytes(output.whole).decode()
        whole = text[: text.rfind("\n") + 1]
        self.states[direction] += whole.splitlines()

    # The whole story

    def run(self) -> None:
        """Run the story, and check its end.

        Raises:
            Violation: An invariant does not hold.
        """
        jobs: list[Job] = []

        def all_done() -> bool:
            return all(job.done for job in jobs)

        for plan in self.setup.jobs:
            if not plan.overlaps:
                self.hub.run(all_done)
            self.hub.pass_time(plan.gap * (20 if self.setup.didomi == "exports" else 1))
            jobs.append(self.start(plan))
        self.hub.run(all_done)
        self.come_to_rest()

    def come_to_rest(self) -> None:
        """Bring everything to rest, and check that it is what it must be.

        Raises:
            Violation: It is not.
        """
        self.plan.rest = True
        self.record("nobody acts any more, and nothing fails")
        self.hub.pass_time(2 * LATE_BOUND)
        number = 100
        for _ in range(ROUNDS):
            before, failures = self.writing_calls, list[str]()
            for direction in self.setup.directions:
                self.hub.pass_time(86_400.0 if self.setup.didomi == "exports" else 600.0)
                job = self.start(JobPlan(number, direction))
                self.hub.run(lambda job=job: job.done)  # type: ignore[misc]
                number += 1
                failures += self._failures_at_rest(job)
            if self.writing_calls == before and not self.ledger.owes():
                break
        else:
            if self.writing_calls != before:
                raise Violation(f"after {ROUNDS} rounds both directions still write")
            raise Violation(f"at rest, something is owed without a reason: {self.ledger.owes()}")
        if failures:
            raise Violation(f"at rest, {failures[0]}")
        self.oracle.check_rest()

    def _failures_at_rest(self, job: Job) -> list[str]:
        """Return what went wrong in a job during which nothing was to go wrong."""
        failures = []
        for process in (job.tap, job.target):
            deferred = process.exit_code == DEFERRED and self.setup.baseline is None
            if process.exit_code and not deferred:
                tail = "\n".join(process.log[-5:])
                line = f"{process.name} ends with {process.exit_code}: {tail}"
                if process.exit_code != OWED:
                    raise Violation(line)
                failures.append(line)
        return failures

    def close(self) -> None:
        """Put everything away."""
        self.hub.unwind()
        self.ledger.close()
        self.sandbox.database.close()


_CATALOGS: dict[tuple[str, ...], str] = {}
CHANGE_COLUMNS = ["profileId", "customerId", "eventType", "subscription", "subscribed", "timestamp"]


def change_row(profile: int, person: str, name: str, second: str, *, value: bool) -> list[str]:
    """Return a row of Actito's export of changes."""
    return [str(profile), person, "SUBSCRIPTION", name, "Y" if value else "N", second]


class _Text(io.StringIO):
    """A file in memory, with a name."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


@dataclass(frozen=True)
class Call:
    """A request, read."""

    request: PreparedRequest
    side: str
    path: str
    query: dict[str, list[str]]
    content: bytes

    @classmethod
    def read(cls, request: PreparedRequest) -> Call:
        """Read a request."""
        split = urlsplit(request.url or "")
        side = "didomi" if split.path.startswith("/didomi") else "actito"
        body: Any = request.body or b""
        if hasattr(body, "read"):
            body = body.read()
        content = body.encode() if isinstance(body, str) else bytes(body)
        return cls(request, side, unquote(split.path), parse_qs(split.query), content)

    @property
    def kind(self) -> Kind:
        """What it does."""
        if self.path.endswith("/sessions") or self.request.method == "GET":
            return "read"
        return "import" if "mass-imports" in self.path else "write"

    def __str__(self) -> str:
        body = ""
        if self.kind == "write":
            body = " " + self.content.decode()[:700]
        return f"{self.request.method} {self.path.split('/v5')[-1]}{body}"

    def written(self) -> dict[tuple[str, int], bool]:
        """Return what a change of a profile sets, by person and choice."""
        person = next((p for p in PEOPLE if self.path.endswith(f"={p}")), None)
        if self.side != "actito" or person is None:
            return {}
        said = json.loads(self.content).get("subscriptions") or {}
        return {(person, n): said[name] for n, name in enumerate(FIELDS) if name in said}

    def people(self, body: bytes, world: World) -> list[str]:
        """Return whose state a response shows."""
        if self.side == "actito":
            if self.path.endswith("/profiles"):
                profiles = json.loads(body)["profiles"]
                return [p["attributes"]["customerId"] for p in profiles]
            return [p for p in world.people if self.path.endswith(f"={p}")]
        if "/consents/" not in self.path:
            return []
        if person := self.query.get("organization_user_id"):
            return [p for p in world.people if p in person]
        if user := self.query.get("user_id"):
            return [p for n, p in enumerate(world.people) if set(user) & set(world.users_of(n))]
        return list(world.people) if self.path.endswith("/users") else []


def _response(status: int, headers: list[tuple[str, str]], body: bytes) -> Response:
    response = Response()
    response.status_code = status
    response.headers = CaseInsensitiveDict(headers)
    response._content = body
    response._content_consumed = True  # type: ignore[attr-defined]
    response.encoding = "utf-8"
    response.url = "https://sandbox"
    return response


class _Log(logging.Handler):
    """Collects what processes log, and looks for names of people."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        world = self._world
        line = record.getMessage()
        if world.hub.current is not None:
            world.hub.current.process.log.append(line)
        for person in PEOPLE:
            if person in line:
                world.hub.fail(f"a log line names a person: {line}")


class _NoCollector:
    """Stands in for `gc` where a target pauses it: this process is not the target's own."""

    @staticmethod
    def isenabled() -> bool:
        return False

    @staticmethod
    def get_freeze_count() -> int:
        return 1

    freeze = unfreeze = enable = disable = staticmethod(lambda: None)


@contextlib.contextmanager
def _quicker() -> Iterator[None]:
    """Leave out what takes long at each start of a plugin, and always has the same result."""
    fields, proxies = msgspec.structs.fields, requests.sessions.get_environ_proxies
    collector = plugin_target.gc
    try:
        msgspec.structs.fields = functools.cache(fields)
        requests.sessions.get_environ_proxies = lambda *_, **__: {}  # type: ignore[assignment]
        plugin_target.gc = _NoCollector  # type: ignore[assignment]
        yield
    finally:
        msgspec.structs.fields = fields
        requests.sessions.get_environ_proxies = proxies
        plugin_target.gc = collector


@contextlib.contextmanager
def stage(plan: Plan) -> Iterator[World]:
    """Set up the world of a story, and put everything away after it."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir=base))
    kept: dict[str, Any] = {"stdout": sys.stdout, "runtime": BasePlugin.runtime}
    names = ("XDG_STATE_HOME",)
    environment = {name: os.environ.get(name) for name in names}
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    world = None
    try:
        os.environ["XDG_STATE_HOME"] = str(folder / "state")
        world = World(plan, folder)
        STDOUT.hub, STDOUT.steps = world.hub, world
        sys.stdout = cast("TextIO", STDOUT)
        BasePlugin.runtime = world.runtime
        root.handlers[:] = [_Log(world)]
        root.setLevel(logging.INFO)
        with _quicker():
            yield world
    finally:
        if world is not None:
            world.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        privacy._secrets.clear()  # tokens of this story
        sys.stdout = kept["stdout"]
        BasePlugin.runtime = kept["runtime"]
        STDOUT.hub = STDOUT.steps = None
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        shutil.rmtree(folder, ignore_errors=True)
