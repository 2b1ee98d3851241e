"""The report of a run, as JSON or as a page."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from actito_didomi.plugin.summary import write_private

if TYPE_CHECKING:
    from actito_didomi.consent.ledger import Ledger
    from actito_didomi.plugin.summary import Summary
    from actito_didomi.runtime import Runtime


def write_reports(
    setting: str, summary: Summary, ledger: Ledger | None, number: int | None, runtime: Runtime
) -> None:
    """Write the report to where `report_path` says; only its owner can read it.

    Args:
        setting: A file, which is a page if it ends with `.html`; or a folder, which exists or ends
            with a slash: it gets a file of both kinds for each run, and `latest.html`.
        summary: The counts of the run.
        ledger: The ledger, which a page needs.
        number: Number of the run in the ledger; None if it isn't recorded there.
        runtime: Clock and names.

    Raises:
        OSError: It can't be written, or a page needs the ledger that there is not.
        SettingsError: The ledger fails.
    """
    path = Path(setting).absolute()
    text = msgspec.json.format(msgspec.json.encode(summary.to_dict()), indent=2) + b"\n"
    if not (setting.endswith("/") or path.is_dir()):
        if path.suffix != ".html":
            write_private(path, text, runtime)
            return
        page = _page(ledger, number)
        if page is None:
            raise OSError(errno.EINVAL, "a page needs a ledger (`ledger_url`)")
        write_private(path, page, runtime)
        return
    path.mkdir(parents=True, exist_ok=True)
    name = f"run-{runtime.now():%Y%m%dT%H%M%S}-{number or 0:06}"
    write_private(path / f"{name}.json", text, runtime)
    if (page := _page(ledger, number)) is not None:
        write_private(path / f"{name}.html", page, runtime)
        write_private(path / "latest.html", page, runtime)


def _page(ledger: Ledger | None, number: int | None) -> bytes | None:
    """Return the page about a run; None where the ledger doesn't know it."""
    run = None if ledger is None or number is None else ledger.find_run(number)
    if ledger is None or run is None:
        return None
    from actito_didomi.plugin.page import render_page  # noqa: PLC0415 - slow, rarely needed

    return render_page(ledger, run).encode()
