"""The sandbox serves programs of this machine, and no web page that is open on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from actito_didomi.sandbox.options import SandboxOptions
from actito_didomi.sandbox.server import BackgroundSandbox


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/sandbox/stats", {"headers": {"Host": "evil.example"}}, 403),
        ("/sandbox/stats", {"headers": {"Host": "evil.example:80"}}, 403),
        ("/sandbox/stats", {"headers": {"Host": "localhost:1"}}, 200),
        ("/sandbox/stats", {"headers": {"Host": "localhost"}}, 200),
        ("/sandbox/stats", {"headers": {"Origin": "http://127.0.0.1"}}, 403),
        ("/actito/auth/token", {"headers": {"Origin": "null"}}, 403),
        ("/didomi/v1/sessions", {"headers": {"Host": "evil.example"}}, 403),
        ("/sandbox/reset", {"data": "{}"}, 415),
        ("/sandbox/reset", {"data": "{}", "headers": {"Content-Type": "text/plain"}}, 415),
        ("/sandbox/reset", {"json": {}}, 204),
    ],
)
def test_foreign_hosts_origins_and_types_are_refused(
    url: str, path: str, sent: dict[str, Any], status: int
) -> None:
    """Otherwise a page could wipe data, write files or set options."""
    method = "POST" if {"data", "json"} & set(sent) else "GET"
    assert requests.request(method, url + path, timeout=10, **sent).status_code == status


@pytest.mark.parametrize("change", [{"export_id": "../x"}, {"days": ["../../y"]}])
def test_exports_stay_below_their_folder(url: str, tmp_path: Path, change: dict[str, Any]) -> None:
    """Ids can't lead out of it."""
    body = {"root": str(tmp_path / "exports"), **change}
    assert requests.post(f"{url}/sandbox/exports", json=body, timeout=10).status_code == 400
    assert list(tmp_path.glob("**/users")) == []


@pytest.mark.parametrize("given", ["exports", None])
def test_a_request_cannot_choose_where_files_are_written(tmp_path: Path, given: str | None) -> None:
    """The folder is given at start; without one, no exports are written."""
    exports = None if given is None else str(tmp_path / given)
    with BackgroundSandbox(SandboxOptions(limits=False), exports=exports) as sandbox:
        for root in ("/", "", str(tmp_path), str(tmp_path / "exports" / ".." / "other")):
            assert write_to(sandbox.url, root) == 400
        inside = write_to(sandbox.url, str(tmp_path / "exports" / "more"))
    assert inside == (400 if given is None else 200)


def write_to(url: str, root: str) -> int:
    """Ask for batch exports in a folder; return the status of the response."""
    return requests.post(f"{url}/sandbox/exports", json={"root": root}, timeout=10).status_code
