"""Run both directions against the sandbox: `make demo` runs this.

It starts a local Actito and Didomi and runs `meltano run didomi-to-actito` over a batch export.
Then one person opts out in Actito and another one in Didomi. Both opt-outs reach the other side,
and one more run has nothing to write. At last three opt-outs survive that are easily lost.
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
from urllib.parse import quote

import requests
from rich.console import Console
from rich.table import Table

from actito_didomi.sandbox.options import ACTITO_KEY, DIDOMI_KEY, DIDOMI_SECRET, ORGANIZATION

ROOT = Path(__file__).parent.parent
DEMO = ROOT / ".demo"
MELTANO = ROOT / ".venv-meltano" / "bin" / "meltano"
PEOPLE = 2000
SHOWN = ["Newsletter", "SmsAlerts", "PartnerOffers", "Loyalty_Club", "Surveys", "WeeklyDigest"]
_SCRUB = ("TAP_", "TARGET_", "MELTANO_")

console = Console(width=110 if not sys.stdout.isatty() else None)


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_sandbox(port: int) -> subprocess.Popen[bytes]:
    """Start the sandbox, and wait until it responds."""
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


class Sandbox:
    """Both systems, used as people and their sites use them: not through the plugins."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._profiles = (
            f"{self.url}/actito/profiles/v5/entities/demo/profile-tables/Profiles/profiles"
        )
        self._events = f"{self.url}/didomi/v1/consents/events"
        self._users = f"{self.url}/didomi/v1/consents/users"
        self._http = requests.Session()
        key = {"Authorization": ACTITO_KEY}
        token = self._http.get(f"{self.url}/actito/auth/token", headers=key, timeout=30).json()
        self._actito = {"Authorization": f"Bearer {token['accessToken']}"}
        secret = {"type": "api-key", "key": DIDOMI_KEY, "secret": DIDOMI_SECRET}
        token = self._http.post(f"{self.url}/didomi/v1/sessions", json=secret, timeout=30).json()
        self._didomi = {"Authorization": f"Bearer {token['access_token']}"}

    def profiles(self) -> dict[str, dict[str, Any]]:
        """Return all profiles of Actito by customer id."""
        found: dict[str, dict[str, Any]] = {}
        page = 0
        while True:
            answer = self._http.get(
                self._profiles,
                params={"page": page, "pageSize": 1000},
                headers=self._actito,
                timeout=30,
            ).json()
            found |= {p["attributes"]["customerId"]: p for p in answer["profiles"]}
            if len(found) >= answer["total"] or not answer["profiles"]:
                return found
            page += 1

    def subscriptions(self, person: str) -> dict[str, bool]:
        """Return one person's subscriptions in Actito."""
        answer = self._http.get(
            f"{self._profiles}/customerId={quote(person)}", headers=self._actito, timeout=30
        )
        found: dict[str, bool] = answer.json()["subscriptions"]
        return found

    def channels(self, person: str) -> dict[str, bool | None]:
        """Return one person's choices of channels in Didomi."""
        users = self._http.get(
            self._users,
            params={"organization_id": ORGANIZATION, "organization_user_id": person},
            headers=self._didomi,
            timeout=30,
        ).json()["data"]
        if not users:
            return {}
        latest = max(users, key=lambda user: user["updated_at"])
        return {c["id"]: c["enabled"] for c in latest["consents"]["channels"]}

    def unsubscribe_in_actito(self, person: str) -> None:
        """Unsubscribe a person by the link in a newsletter."""
        self._http.patch(
            f"{self._profiles}/customerId={quote(person)}",
            json={"subscriptions": {"Newsletter": False}},
            headers=self._actito,
            timeout=30,
        ).raise_for_status()

    def choose_in_didomi(self, person: str, channel: str, *, choice: bool) -> None:
        """Switch a channel on or off in the preference centre."""
        event = {
            "user": {"organization_user_id": person},
            "consents": {"channels": [{"id": channel, "enabled": choice}]},
        }
        self._http.post(
            self._events,
            params={"organization_id": ORGANIZATION},
            json=event,
            headers=self._didomi,
            timeout=30,
        ).raise_for_status()

    def create_profile(self, person: str) -> None:
        """Create a profile that is subscribed to everything, as a shop does for a customer."""
        names = self.subscriptions(next(iter(self.profiles())))
        self._http.post(
            self._profiles,
            json={
                "attributes": {"customerId": person, "lastName": "Doe"},
                "subscriptions": dict.fromkeys(names, True),
            },
            headers=self._actito,
            timeout=30,
        ).raise_for_status()

    def refuse_next_change(self) -> None:
        """Have Actito refuse the next change of a profile, with status 422."""
        fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
        self._http.post(
            f"{self.url}/sandbox/faults", json={**fault, "count": 1}, timeout=30
        ).raise_for_status()

    def write_export(self, exports: Path) -> None:
        """Write the next batch export."""
        self._http.post(
            f"{self.url}/sandbox/exports",
            json={"root": str(exports), "export_id": ORGANIZATION},
            timeout=60,
        ).raise_for_status()

    def writes(self) -> tuple[int, int]:
        """Return the number of changes that Actito and Didomi have stored."""
        stats = self._http.get(f"{self.url}/sandbox/stats", timeout=30).json()
        return int(stats["actito"]["writes"]), int(stats["didomi"]["writes"])


def meltano(
    arguments: list[str], environment: dict[str, str], log: Path, *, fails: bool = False
) -> None:
    """Run Meltano with its output in a file; print the end of the file if it fails.

    Args:
        arguments: Of Meltano.
        environment: Its environment.
        log: The file.
        fails: Whether it is expected to fail.
    """
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
    if bool(done.returncode) is not fails:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
        raise SystemExit(f"meltano {' '.join(arguments)} failed ({done.returncode}):\n{tail}")


def run_job(
    job: str, number: int, environment: dict[str, str], *, fails: bool = False
) -> dict[str, Any]:
    """Run a job once, and return the target's report."""
    report = DEMO / f"{job}-{number}.json"
    target = job.rsplit("-", 1)[1].upper()
    environment = {**environment, f"TARGET_{target}_REPORT_PATH": str(report)}
    meltano(["run", job], environment, DEMO / f"{job}-{number}.log", fails=fails)
    result: dict[str, Any] = json.loads(report.read_text())
    return result


def command(environment: dict[str, str], *arguments: str, answer: str = "") -> list[str]:
    """Run `actito-didomi` on the ledger of the demo; return the lines that it prints."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("actito-didomi")), *arguments],
        cwd=DEMO,
        env={
            **environment,
            "TARGET_ACTITO_LEDGER_URL": f"sqlite:///{DEMO / 'actito-didomi.db'}",
        },
        input=answer,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.stdout.splitlines()


def show_people(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Print some people whose subscriptions changed, and return their number."""
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
    """Print the number of changes per subscription."""
    table = Table(title="Changes by subscription", title_justify="left")
    for name in ("subscription", "no → yes", "yes → no"):
        table.add_column(name, justify="left" if name == "subscription" else "right")
    for name in after[next(iter(after))]["subscriptions"]:
        pairs = [(before[p]["subscriptions"][name], after[p]["subscriptions"][name]) for p in after]
        note = "  (not mapped)" if name not in SHOWN else ""
        table.add_row(name + note, str(pairs.count((False, True))), str(pairs.count((True, False))))
    console.print(table)


def show_summary(report: dict[str, Any]) -> None:
    """Print the summary of target-actito."""
    skipped = ", ".join(f"{n} {why}" for why, n in report["skipped"].items()) or "none"
    console.print(
        f"  {report['records']} records of {report['people']} people; skipped: {skipped}\n"
        f"  {report['updated']} profiles updated, {report['created']} created, "
        f"{report['unmatched']} people without a profile, {report['unchanged']} with nothing to "
        f"write, {report['rejected']} rejected\n"
        f"  {report['requests']} requests to Actito in {report['seconds']:.0f} s, "
        f"{report['imports']} of them for bulk imports"
    )


def show_reverse(report: dict[str, Any]) -> None:
    """Print the summary of target-didomi."""
    console.print(
        f"  to Didomi: {report['records']} records read; {report['written']} choices of "
        f"{report['updated']} people written ({report['written_opt_outs']} opt-outs)"
    )


def show_forward(report: dict[str, Any]) -> None:
    """Print the summary of target-actito in one line."""
    skipped = ", ".join(f"{n} {why}" for why, n in report["skipped"].items()) or "none"
    console.print(
        f"  to Actito: {report['records']} records read, skipped: {skipped}; "
        f"{report['updated']} profiles updated"
    )


def show_both(sandbox: Sandbox, people: dict[str, str]) -> None:
    """Print what each side holds of some people."""
    table = Table(title="Both sides now", title_justify="left")
    names = ("Actito: Newsletter", "Didomi: email", "Actito: SmsAlerts", "Didomi: sms")
    for name in ("person", "opted out in", *names):
        table.add_column(name, no_wrap=True)
    shown = {True: "[green]yes[/]", False: "[red]no[/]", None: "[dim]no choice[/]"}
    for person, side in people.items():
        profile, choices = sandbox.subscriptions(person), sandbox.channels(person)
        held = (
            profile["Newsletter"], choices.get("email"),
            profile["SmsAlerts"], choices.get("sms"),
        )  # fmt: skip
        table.add_row(person, side, *(shown[value] for value in held))
    console.print(table)


def first_load(sandbox: Sandbox, environment: dict[str, str]) -> None:
    """Run the forward sync for the first time."""
    before = sandbox.profiles()
    console.print(
        f"   Actito has {len(before)} profiles; Didomi's batch export of three days is in "
        ".demo/exports.\n"
        "   Actito allows 100 requests per minute: one request per person would take 15 minutes.\n"
        "   The target plans a bulk import instead (bulk_empty_cells: all rows may share one file)."
    )
    console.print("[bold]3.[/] meltano run didomi-to-actito      (= tap-didomi target-actito) ...")
    report = run_job("didomi-to-actito", 1, environment)
    after = sandbox.profiles()
    show_summary(report)
    console.print()
    count = show_people(before, after)
    console.print()
    show_totals(before, after)
    console.print(f"  Subscriptions of {count} of {len(after)} people changed.\n")


def both_directions(sandbox: Sandbox, environment: dict[str, str]) -> None:
    """Opt two people out, one on each side, and sync both directions."""
    console.print(
        "[bold]4.[/] meltano run actito-to-didomi      (= tap-actito target-didomi), the first "
        "run:\n   it looks at all profiles. That is the baseline: what changes from now on is "
        "read as a choice ..."
    )
    show_reverse(run_job("actito-to-didomi", 1, environment))
    console.print(
        "  Nothing has changed in Actito since. What is written concerns people of whom Didomi "
        "still shows what\n  an older sync had brought there (its events have the delegate "
        "`actito`): the newest choice counts."
    )
    in_actito, in_didomi = (
        next(
            person
            for person, profile in sandbox.profiles().items()
            if profile["subscriptions"][subscription] and sandbox.channels(person).get(channel)
        )
        for subscription, channel in (("Newsletter", "email"), ("SmsAlerts", "sms"))
    )
    console.print(
        f"\n[bold]5.[/] {in_actito} clicks the unsubscribe link of a newsletter: Actito knows.\n"
        f"   {in_didomi} switches text messages off in the preference centre: Didomi knows."
    )
    sandbox.unsubscribe_in_actito(in_actito)
    sandbox.choose_in_didomi(in_didomi, "sms", choice=False)
    sandbox.write_export(DEMO / "exports")
    console.print("   meltano run actito-to-didomi, meltano run didomi-to-actito ...")
    show_reverse(run_job("actito-to-didomi", 2, environment))
    show_forward(run_job("didomi-to-actito", 2, environment))
    console.print(
        "  Records of the delegate `actito` are those that the reverse sync posted: they came from "
        "Actito, so they\n  are skipped."
    )
    people = {in_actito: "Actito", in_didomi: "Didomi"}
    show_both(sandbox, people)
    arrived = (
        sandbox.channels(in_actito).get("email"),
        sandbox.subscriptions(in_didomi)["SmsAlerts"],
    )
    if arrived != (False, False):
        raise SystemExit("An opt-out has not reached the other side.")
    console.print("\n[bold]6.[/] Both directions once more: there is nothing new ...")
    stored = sandbox.writes()
    show_reverse(run_job("actito-to-didomi", 3, environment))
    show_forward(run_job("didomi-to-actito", 3, environment))
    if sandbox.writes() != stored:
        raise SystemExit(f"Writes before and after: {stored}, {sandbox.writes()}.")
    console.print(
        "  Nothing was written on either side: no choice is sent back to where it came from.\n"
    )


def three_troubles(sandbox: Sandbox, environment: dict[str, str]) -> None:
    """Unsubscribe between look and write, have a change refused, opt out without a profile."""
    profiles = sandbox.profiles()
    between, refused = [
        person
        for person, profile in profiles.items()
        if profile["subscriptions"]["Newsletter"] and sandbox.channels(person).get("email")
    ][:2]
    unknown = "cust-new"
    console.print(
        "[bold]7.[/] Three opt-outs that are easily lost:\n"
        f"   a. {between} confirms the newsletter in Didomi, and then unsubscribes in Actito:\n"
        "      after the last look at Actito, and before the confirmation is written.\n"
        f"   b. {refused} opts out in Didomi, and Actito refuses that change once.\n"
        f"   c. {unknown} opts out in Didomi, and has no profile in Actito yet."
    )
    sandbox.choose_in_didomi(between, "email", choice=True)
    sandbox.unsubscribe_in_actito(between)
    sandbox.choose_in_didomi(refused, "email", choice=False)
    sandbox.choose_in_didomi(unknown, "email", choice=False)
    sandbox.write_export(DEMO / "exports")
    sandbox.refuse_next_change()
    console.print("   meltano run didomi-to-actito ...")
    report = run_job("didomi-to-actito", 4, environment, fails=True)
    show_forward(report)
    console.print(
        f"  a. The target looks at a profile before it writes, and found the unsubscribe. "
        "Newsletter is "
        f"{'on' if sandbox.subscriptions(between)['Newsletter'] else 'still off'}.\n"
        "  b. The opt-out is owed, so the run ended with exit status 3 "
        f"({report['code']}).\n"
        "  c. The opt-out waits in the ledger for a profile."
    )
    console.print("  actito-didomi rejects list --opt-outs --code change_refused")
    owed = command(environment, "rejects", "list", "--opt-outs", "--code=change_refused")
    for line in owed:
        console.print(f"    {line}", highlight=False)
    command(environment, "runs", "page", "--out", "run.html")
    console.print()
    console.print(
        f"[bold]8.[/] A shop creates the profile of {unknown}, subscribed to everything. The next "
        "runs read no new choice\n   of Didomi, write what is owed to Actito (b and c), and bring "
        "to Didomi the unsubscribe (a) and\n   what else the shop subscribed cust-new to:\n"
        "   meltano run didomi-to-actito, meltano run actito-to-didomi ..."
    )
    sandbox.create_profile(unknown)
    show_forward(run_job("didomi-to-actito", 5, environment))
    show_reverse(run_job("actito-to-didomi", 4, environment))
    people = {between: "Actito", refused: "Didomi", unknown: "Didomi"}
    show_both(sandbox, people)
    if any(
        sandbox.subscriptions(person)["Newsletter"] or sandbox.channels(person).get("email")
        for person in people
    ):
        raise SystemExit("An opt-out was lost.")
    console.print("  No opt-out is lost, and both sides agree.\n")
    console.print(f"[bold]9.[/] What became of the opt-out of {refused}? actito-didomi explain")
    for line in command(environment, "explain", "-", answer=refused):
        console.print(f"    {line}", highlight=False, markup=False)
    console.print()


def main() -> None:
    """Run the demo."""
    started = time.monotonic()
    shutil.rmtree(DEMO, ignore_errors=True)
    DEMO.mkdir()
    port = free_port()
    actito, didomi = f"http://127.0.0.1:{port}/actito", f"http://127.0.0.1:{port}/didomi/v1"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_SCRUB)}
    environment |= {
        "MELTANO_DATABASE_URI": f"sqlite:///{DEMO / 'meltano.db'}",
        "MELTANO_SEND_ANONYMOUS_USAGE_STATS": "false",
        # Install as `make` does: with pip, and what the machine's pip is set up to use.
        "MELTANO_VENV_BACKEND": "virtualenv",
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "TARGET_ACTITO_API_URL": actito,
        "TARGET_ACTITO_BULK_EMPTY_CELLS": "unchanged",
        "TARGET_ACTITO_LOOKUP_HOURS": "0",
        "TARGET_ACTITO_BULK_POLL_INTERVAL": "0.5",
        "TARGET_ACTITO_REJECTS_PATH": str(DEMO / "actito-rejects.jsonl"),
        "TAP_DIDOMI_EXPORT_ROOT": f"file://{DEMO / 'exports'}",
        "TAP_ACTITO_API_URL": actito,
        "TARGET_DIDOMI_API_URL": didomi,
        "TARGET_DIDOMI_REJECTS_PATH": str(DEMO / "didomi-rejects.jsonl"),
        "NO_COLOR": "1",
    }
    console.rule("[bold]Consent between Didomi and Actito[/]")
    console.print("[bold]1.[/] Installing the plugins with Meltano (only once) ...")
    meltano(["install"], environment, DEMO / "install.log")
    console.print(f"[bold]2.[/] Starting a local Actito and Didomi with {PEOPLE} people ...")
    process = start_sandbox(port)
    try:
        sandbox = Sandbox(port)
        first_load(sandbox, environment)
        both_directions(sandbox, environment)
        three_troubles(sandbox, environment)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    console.print(
        f"Done in {time.monotonic() - started:.0f} s; the sandbox is stopped. Where to look:\n"
        "  .demo/run.html      the page about the run of step 7: an opt-out is owed\n"
        "  .demo/*.json        reports of all runs; .demo/*.log what they logged\n"
        "  meltano.yml         the jobs\n"
        "  docs/README.md      how to set up your own"
    )


if __name__ == "__main__":
    main()
