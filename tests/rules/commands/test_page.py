"""The page about a run: what it shows, in a browser too, and nobody's data but hashes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support import Actito, event, listen, stream_of, with_ledger

from actito_didomi.commands import main
from actito_didomi.errors import ActitoDidomiError
from actito_didomi.plugin.flow import Part, draw

PLANTED = [f"anna{number}@planted.example" for number in range(26)]
BROWSER = next(
    filter(
        None,
        map(
            shutil.which,
            ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"),
        ),
    ),
    None,
)


@pytest.fixture
def config(config: dict[str, Any], tmp_path) -> dict[str, Any]:
    """Settings of target-actito with a ledger; the report is a folder."""
    return {**config, **with_ledger(tmp_path), "report_path": f"{tmp_path}/reports/"}


def sync(config: dict[str, Any], *events: dict[str, Any]) -> int:
    try:
        listen(config, stream_of(*events))
    except ActitoDidomiError as error:
        return error.exit_code
    return 0


def mail(person: str, choice: bool, **more: Any) -> dict[str, Any]:
    when = (datetime.now(timezone.utc) - timedelta(hours=2)).isoformat(timespec="milliseconds")
    return event(person, when, channels={"email": choice}, **more)


def write_pages(config: dict[str, Any], actito: Actito, tmp_path) -> dict[str, Path]:
    """Make a run that is all well and one with rejects, and return the pages about them."""
    actito.create_many(PLANTED)
    for person in PLANTED[:12]:
        actito.change(person, Newsletter=True)
    pages = {}
    first = [mail(person, False) for person in PLANTED[:4]]
    assert sync(config, *first, mail("", True), mail(PLANTED[20], True)) == 0
    pages["well"] = Path(shutil.copy(tmp_path / "reports" / "latest.html", tmp_path / "well.html"))
    fault = {"side": "actito", "action": "status", "route": "patch_profile", "status": 422}
    actito.steer("faults", {**fault, "count": 5})
    second = [mail(person, False) for person in PLANTED[4:12]]
    assert sync(config, *second, mail("nobody@planted.example", False)) == 3
    pages["rejects"] = tmp_path / "reports" / "latest.html"
    return pages


def test_a_page_says_what_became_of_opt_outs(config, actito: Actito, tmp_path) -> None:
    pages = {name: page.read_text() for name, page in write_pages(config, actito, tmp_path).items()}
    assert "<h1>5 people updated; every opt-out is written</h1>" in pages["well"]
    assert '<header class="good">' in pages["well"]
    assert "What is owed: nothing" in pages["well"]
    assert "<h1>5 opt-outs are NOT written to Actito; see below</h1>" in pages["rejects"]
    assert '<header class="bad">' in pages["rejects"]
    assert "change_refused (422)" in pages["rejects"]
    assert "actito-didomi rejects retry --code change_refused" in pages["rejects"]
    assert "no_profile" in pages["rejects"]
    assert '<dd class="big">2 h</dd>' in pages["rejects"]
    for text in pages.values():
        assert not re.search("http|<script|<link|src=|@import|planted|anna", text)
    written = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert [name.rpartition(".")[2] for name in written] == ["html", "html", "json", "html", "json"]
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "reports").iterdir())


def test_a_silent_mapping_stands_out(config, actito: Actito, tmp_path) -> None:
    """Red, with the name that was seen; the band is not green."""
    actito.create_many(PLANTED)
    typo = [
        {"id": "Newsletter", "value": "consents_channels_email_enabled"},
        {"id": "SmsAlerts", "value": "consents_purposes_other_enabled"},
    ]
    first = [mail(person, False) for person in PLANTED]
    assert sync({**config, "mappings": typo}, *first) == 0
    text = (tmp_path / "reports" / "latest.html").read_text()
    assert '<header class="warn">' in text
    assert "every opt-out is written; 1 mapping met no value</h1>" in text
    (row,) = re.findall(r'<tr class="red">.*?</tr>', text, re.DOTALL)
    assert "SmsAlerts" in row
    assert "no record holds consents_purposes_other_enabled" in row


def test_a_page_is_made_of_a_run_on_record(config, actito: Actito, tmp_path) -> None:
    """The last one of a target, or the one that is named; a report may be a page alone."""
    actito.create(PLANTED[0], Newsletter=True)
    config = {**config, "report_path": str(tmp_path / "page.html")}
    assert sync(config, mail(PLANTED[0], False)) == 0
    assert sync(config) == 0
    file = tmp_path / "runs.json"
    file.write_text(json.dumps({"ledger_url": config["ledger_url"]}))
    texts = []
    for number in ("1", "2"):
        out = tmp_path / f"{number}.html"
        given = ["runs", "page", "--out", str(out), "--run", number, "--config", str(file)]
        result = CliRunner().invoke(main, given)
        assert result.exit_code == 0, result.output
        texts.append(out.read_text())
    assert "1 person updated; every opt-out is written" in texts[0]
    assert "0 people updated" in texts[1]
    assert "<h1>0 people updated" in (tmp_path / "page.html").read_text()
    given = ["runs", "page", "--out", str(tmp_path / "x.html"), "--run", "9", "--config", str(file)]
    assert CliRunner().invoke(main, given).exit_code == 2


def test_a_report_that_cant_be_written_changes_no_exit_status(config, actito, tmp_path) -> None:
    actito.create(PLANTED[0], Newsletter=True)
    (tmp_path / "file").write_text("")
    config = {**config, "report_path": str(tmp_path / "file" / "page.html")}
    assert sync(config, mail(PLANTED[0], False)) == 0
    assert actito.subscriptions(PLANTED[0])["Newsletter"] is False


@pytest.mark.skipif(BROWSER is None, reason="no headless Chromium is installed")
def test_a_browser_shows_the_page(config, actito: Actito, tmp_path) -> None:
    """Counts as in the JSON report; nothing is fetched, and no script runs."""
    assert BROWSER is not None
    pages = write_pages(config, actito, tmp_path)
    counts = json.loads(max((tmp_path / "reports").glob("*.json")).read_text())
    base = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    address = pages["rejects"].as_uri()
    shown = subprocess.run(
        [*base, "--dump-dom", address], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    text = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", shown, flags=re.DOTALL))
    assert f"records read {counts['records']}" in text
    assert f"people {counts['people']}" in text
    assert f"written {counts['updated']} ({counts['opt_outs']['written']} with an opt-out)" in text
    assert f"rejected {counts['rejected']} (5 with an opt-out)" in text
    assert f"no profile {counts['unmatched']} (1 with an opt-out)" in text
    assert not re.search("http|<script|planted|anna", shown)
    picture = tmp_path / "page.png"
    for name, page in pages.items():
        picture = tmp_path / f"{name}.png"
        given = [f"--screenshot={picture}", "--window-size=1100,2000", page.as_uri()]
        subprocess.run([*base, *given], capture_output=True, timeout=60, check=True)
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 20_000


@pytest.mark.parametrize("records", [0, 1, 10_000_000])
def test_a_flow_fits_its_drawing(records: int) -> None:
    """Whatever the counts are, bars don't overlap and stay in the picture."""
    skipped = [Part("a", records // 2, colour="skip"), Part("b", 1 if records else 0)]
    outcomes = [Part("x", records // 3, records // 3), Part("y", 1, 1), Part("z", 7), Part("0", 0)]
    flow = draw(records, skipped, Part("people", records), outcomes)
    for x in {node.x for node in flow.nodes}:
        column = [node for node in flow.nodes if node.x == x]
        for above, below in itertools.pairwise(column):
            assert below.y >= above.y + above.height + 10
    assert all(node.y + node.height <= flow.height for node in flow.nodes)
    assert not any(node.part.label == "0" for node in flow.nodes)
