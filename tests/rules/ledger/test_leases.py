"""One run per direction, and Actito's limits for all processes together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import sqlalchemy as sa
from ledger_databases import DATABASES, SCOPE
from support import Actito

from actito_didomi import codes
from actito_didomi.actito._wire import FACTS
from actito_didomi.actito.config import ActitoSettings
from actito_didomi.actito.session import open_session
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledger import Ledger
from actito_didomi.errors import DirectionInUseError
from actito_didomi.http import ClientSettings
from actito_didomi.runtime import Runtime
from actito_didomi.sandbox.options import ACTITO_KEY, SandboxOptions


@pytest.fixture(params=DATABASES)
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerSettings:
    """A ledger of the test's own in each kind of database."""
    return request.param(tmp_path)


@pytest.fixture
def ledger(settings: LedgerSettings) -> Iterator[Ledger]:
    opened = Ledger.open(settings, SCOPE, Runtime())
    yield opened
    opened.close()


HOLDING = """
import sys, time
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.ledger import Ledger
from actito_didomi.runtime import Runtime
from ledger_databases import SCOPE
ledger = Ledger.open(LedgerSettings(ledger_url=sys.argv[1], ledger_key="key"), SCOPE, Runtime())
if sys.argv[2] == "limits":
    limits = ledger.share_limits("account", calls_per_minute=1000, max_concurrency=2)
    assert limits.begin() and limits.begin()
    print("holding", flush=True)
    time.sleep(60)
with ledger.lease("forward", 0, holder="the other run"):
    print("holding", flush=True)
    time.sleep(float(sys.argv[2]))
"""


@contextmanager
def another_process(settings: LedgerSettings, what: str) -> Iterator[subprocess.Popen[str]]:
    """Run a process until it holds what it is to hold; it is killed at the end."""
    tests = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING, settings.ledger_url, what],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == "holding\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_run_of_a_direction_is_kept_out_until_the_first_is_killed(
    ledger: Ledger, settings: LedgerSettings
) -> None:
    with another_process(settings, "60") as process:
        holder = rf"the other run.*{process.pid}"
        with (
            pytest.raises(DirectionInUseError, match=holder) as caught,
            ledger.lease("forward", 0),
        ):
            pass
        assert caught.value.code is codes.DIRECTION_IN_USE
        with ledger.lease("reverse", 0):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        with ledger.lease("forward", 10):  # PostgreSQL has to notice it first
            pass


def test_a_second_run_waits_for_the_first_to_end(ledger: Ledger, settings: LedgerSettings) -> None:
    with another_process(settings, "1"), ledger.lease("forward", 30):
        pass


def test_a_lease_can_be_taken_again_after_its_end(ledger: Ledger) -> None:
    for _ in range(2):
        with ledger.lease("forward", 0), ledger.change(["anna"]):
            pass
    with pytest.raises(KeyError), ledger.lease("forward", 0):
        raise KeyError
    with ledger.lease("forward", 0):
        pass


def test_the_waiting_ends_when_the_process_is_to_stop(
    ledger: Ledger, settings: LedgerSettings
) -> None:
    stop = Runtime().event()
    stop.set()
    with (
        another_process(settings, "60"),
        pytest.raises(DirectionInUseError),
        ledger.lease("forward", 3600, stop=stop),
    ):
        pass


def test_nothing_is_written_once_the_lease_is_lost(
    ledger: Ledger, settings: LedgerSettings
) -> None:
    if ledger._store.is_sqlite:
        pytest.skip("A file lock can't be lost.")
    with ledger.lease("forward", 0):
        admin = sa.create_engine(settings.ledger_url)
        with admin.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'"
            )
        admin.dispose()
        with pytest.raises(DirectionInUseError, match="lost"), ledger.change(["anna"]):
            pass


class Clock(Runtime):
    """A runtime whose clock stands still."""

    at = datetime(2026, 11, 25, tzinfo=timezone.utc)

    def now(self) -> datetime:
        return self.at


def test_requests_of_a_minute_are_counted_for_all_together(settings: LedgerSettings) -> None:
    clock = Clock()
    ledgers = [Ledger.open(settings, SCOPE, clock) for _ in range(2)]
    one, two = (x.share_limits("a", calls_per_minute=5, max_concurrency=50) for x in ledgers)
    other = ledgers[0].share_limits("b", calls_per_minute=5, max_concurrency=50)
    assert [one.begin(), two.begin(), one.begin(), two.begin(), one.begin()] == [True] * 5
    assert not one.begin()
    assert not two.begin()
    assert other.begin()
    clock.at += timedelta(seconds=60)
    assert not two.begin()
    clock.at += timedelta(seconds=2)
    assert [one.begin(), two.begin(), one.begin(), two.begin(), one.begin()] == [True] * 5
    assert not two.begin()
    # A clock that is set back doesn't block for longer than a minute.
    clock.at -= timedelta(hours=1)
    assert two.begin()
    for limits in (one, two, other):
        limits.close()
    for opened in ledgers:
        opened.close()


def test_turns_that_were_not_used_soon_are_given_up(settings: LedgerSettings) -> None:
    clock = Clock()
    ledger = Ledger.open(settings, SCOPE, clock)
    limits = ledger.share_limits("a", calls_per_minute=120, max_concurrency=200)
    allowed = 0
    for _ in range(60):
        clock.at += timedelta(seconds=1)
        allowed += limits.begin()
    assert allowed == 60
    assert limits.begin()
    assert not limits.begin()  # 120 were taken
    limits.close()
    ledger.close()


def test_requests_at_once_are_counted_for_all_together(
    ledger: Ledger, settings: LedgerSettings
) -> None:
    limits = ledger.share_limits("account", calls_per_minute=1000, max_concurrency=2)
    with another_process(settings, "limits") as process:
        assert not limits.begin()
        process.send_signal(signal.SIGKILL)
        process.wait()
        until = time.monotonic() + 10
        while not limits.begin():
            assert time.monotonic() < until
        assert limits.begin()
        assert not limits.begin()
        limits.end()
        assert limits.begin()
    limits.close()


@pytest.fixture
def options() -> SandboxOptions:
    return SandboxOptions(calls_per_minute=100_000, latency=0.02)


def test_sessions_that_share_limits_never_have_too_many_requests_at_once(
    settings: LedgerSettings, url: str, actito: Actito
) -> None:
    """The sandbox refuses a sixth request at the same time; each refusal would be a retry."""
    ledgers = [Ledger.open(settings, SCOPE, Runtime()) for _ in range(2)]
    sessions = [
        open_session(
            ActitoSettings(api_key=ACTITO_KEY, api_url=f"{url}/actito"),
            ClientSettings(retry_max_wait=0.1),
            max_concurrency=5,
            stop=Runtime().event(),
            runtime=Runtime(),
            limits=ledger.share_limits("a", calls_per_minute=100_000, max_concurrency=5),
        )
        for ledger in ledgers
    ]
    with ThreadPoolExecutor(16) as pool:
        done = list(
            pool.map(lambda n: sessions[n % 2].request("GET", FACTS.paths.entities), range(60))
        )
    assert len(done) == 60
    assert [session.count.retries for session in sessions] == [0, 0]
    for opened in ledgers:
        opened.close()
