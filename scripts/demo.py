"""The main job, start to end, against the sandbox: `make demo` runs this.

It starts a local Actito and Didomi, runs `meltano run didomi-to-actito` over a batch export, shows
whose subscriptions changed, and proves that a second run writes nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
DEMO = ROOT / ".demo"
MELTANO = ROOT / ".venv-meltano" / "bin" / "meltano"
PEOPLE = 2000
SHOWN = ["Newsletter", "SmsAlerts", "PartnerOffers", "Loyalty_Club", "Surveys", "WeeklyDigest"]
_SCRUB = ("TAP_DIDOMI_", "TARGET_ACTITO_", "MELTANO_")

console = Console(width=110 if not sys.stdout.isatty() else None)


def free_port() -> int:
    """Find a free port on the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_sandbox(port: int) -> subprocess.Popen[bytes]:
    """Start the sandbox and wait until it answers."""
    with (DEMO / "sandbox.log").open("wb") as log:
        process = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("actito-didomi")),
                "sandbox",
                f"--port={port}",
                f"--people={PEOPLE}",
                f"--exports={DEMO / 'exports'}",
                "--switch=etl_empty_clears=false",
            ],
            stdout=log,
            stderr=log,
        )
    for _ in range(300):
        if process.poll() is not None:
            break
        try:
            requests.get(f"http://127.0.0.1:{port}/sandbox/stats", timeout=1)
        except requests.RequestException:
            time.sleep(0.1)
        else:
            return process
    process.kill()
    process.wait()
    raise SystemExit(f"The sandbox did not start:\n{(DEMO / 'sandbox.log').read_text()}")


def read_profiles(url: str) -> dict[str, dict[str, Any]]:
    """Read all profiles from the sandbox, by customer id."""
    token = requests.get(
        f"{url}/auth/token", headers={"Authorization": "sandbox-actito-key"}, timeout=30
    ).json()["accessToken"]
    found: dict[str, dict[str, Any]] = {}
    page = 0
    while True:
        answer = requests.get(
            f"{url}/profiles/v5/entities/demo/profile-tables/Profiles/profiles",
            params={"page": page, "pageSize": 1000},
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        ).json()
        found |= {p["attributes"]["customerId"]: p for p in answer["profiles"]}
        if len(found) >= answer["total"] or not answer["profiles"]:
            return found
        page += 1


def writes(port: int) -> int:
    """Count the changes that Actito has stored."""
    stats = requests.get(f"http://127.0.0.1:{port}/sandbox/stats", timeout=30).json()
    return int(stats["actito"]["writes"])


def meltano(arguments: list[str], environment: dict[str, str], log: Path) -> None:
    """Run Meltano with its output in a file; show the file's end if it fails."""
    with log.open("wb") as file:
        done = subprocess.run(
            [str(MELTANO), *arguments],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        raise SystemExit(f"meltano {' '.join(arguments)} failed ({done.returncode}):\n{tail}")


def run_job(number: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run the job once and give its report."""
    report = DEMO / f"report-{number}.json"
    environment = {**environment, "TARGET_ACTITO_REPORT_PATH": str(report)}
    meltano(["run", "didomi-to-actito"], environment, DEMO / f"run-{number}.log")
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def show_people(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print some people whose subscriptions changed; give how many there are."""
    changed = [p for p in after if before[p]["subscriptions"] != after[p]["subscriptions"]]
    table = Table(title="Some of the people whose subscriptions changed", title_justify="left")
    table.add_column("person", no_wrap=True)
    for name in SHOWN:
        table.add_column(name, justify="center")
    plain = {True: "[green]yes[/]", False: "[red]no[/]"}
    for person in changed[:8]:
        cells = []
        for name in SHOWN:
            old, new = before[person]["subscriptions"][name], after[person]["subscriptions"][name]
            cells.append(
                f"[bold]{plain[old]} → {plain[new]}[/]"
                if old != new
                else f"[dim]{'yes' if old else 'no'}[/]"
            )
        table.add_row(person, *cells)
    console.print(table)
    return len(changed)


def show_totals(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Print how many changes each subscription saw."""
    table = Table(title="Changes by subscription", title_justify="left")
    for name in ("subscription", "no → yes", "yes → no"):
        table.add_column(name, justify="left" if name == "subscription" else "right")
    for name in after[next(iter(after))]["subscriptions"]:
        pairs = [(before[p]["subscriptions"][name], after[p]["subscriptions"][name]) for p in after]
        note = "  (no mapping names it)" if name not in SHOWN else ""
        table.add_row(name + note, str(pairs.count((False, True))), str(pairs.count((True, False))))
    console.print(table)


def show_summary(report: dict[str, Any]) -> None:
    """Print the target's own summary."""
    skipped = ", ".join(f"{n} {why}" for why, n in report["skipped"].items()) or "none"
    console.print(
        f"  {report['records']} records of {report['people']} people; skipped: {skipped}\n"
        f"  {report['updated']} profiles updated, {report['created']} created, "
        f"{report['unmatched']} people without a profile, {report['unchanged']} with nothing to "
        f"write, {report['rejected']} rejected\n"
        f"  {report['calls']} calls to Actito in {report['seconds']:.0f} s, "
        f"{report['imports']} of them bulk imports"
    )


def main() -> None:
    """Run the demo."""
    started = time.monotonic()
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    port = free_port()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_SCRUB)}
    environment |= {
        "MELTANO_DATABASE_URI": f"sqlite:///{DEMO / 'meltano.db'}",
        "MELTANO_SEND_ANONYMOUS_USAGE_STATS": "false",
        # Install as `make` does: with pip, and what the machine's pip is set up to use.
        "MELTANO_VENV_BACKEND": "virtualenv",
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "TARGET_ACTITO_API_URL": f"http://127.0.0.1:{port}/actito",
        "TARGET_ACTITO_BULK_EMPTY_CELLS": "unchanged",
        "TARGET_ACTITO_BULK_POLL_INTERVAL": "0.5",
        "TARGET_ACTITO_REJECTS_PATH": str(DEMO / "rejects.jsonl"),
        "TAP_DIDOMI_EXPORT_ROOT": f"file://{DEMO / 'exports'}",
        "NO_COLOR": "1",
    }
    console.rule("[bold]Consent from Didomi to Actito[/]")
    console.print(
        "[bold]1.[/] Installing the plugins with Meltano (once; later runs are quick) ..."
    )
    meltano(["install"], environment, DEMO / "install.log")
    console.print(f"[bold]2.[/] Starting a local Actito and Didomi with {PEOPLE} people ...")
    sandbox = start_sandbox(port)
    try:
        url = f"http://127.0.0.1:{port}/actito"
        before = read_profiles(url)
        console.print(
            f"   Actito has {len(before)} profiles; Didomi's batch export of three days lies in "
            ".demo/exports.\n"
            "   Actito allows 100 calls a minute: a call a person would take 15 minutes.\n"
            "   The target plans a bulk import instead (bulk_empty_cells says that all rows may "
            "share\n   one file)."
        )
        console.print(
            "[bold]3.[/] meltano run didomi-to-actito      (= tap-didomi target-actito) ..."
        )
        report = run_job(1, environment)
        after = read_profiles(url)
        show_summary(report)
        console.print()
        count = show_people(before, after)
        console.print()
        show_totals(before, after)
        console.print(f"  Subscriptions of {count} of {len(after)} people changed.\n")
        console.print("[bold]4.[/] meltano run didomi-to-actito, again: nothing is new ...")
        stored = writes(port)
        second = run_job(2, environment)
        extra = writes(port) - stored
        show_summary(second)
        if extra or read_profiles(url) != after:
            raise SystemExit(f"The second run wrote {extra} times; it should have written nothing.")
        console.print("  The second run wrote nothing: the state remembers what was done.\n")
    finally:
        sandbox.send_signal(signal.SIGINT)
        try:
            sandbox.wait(10)
        except subprocess.TimeoutExpired:
            sandbox.kill()
            sandbox.wait()
    console.print(
        f"Done in {time.monotonic() - started:.0f} s; the sandbox is stopped. Logs and reports are "
        "in .demo/, the job is in meltano.yml."
    )


if __name__ == "__main__":
    main()
