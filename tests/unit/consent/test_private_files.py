"""Who can read a ledger in SQLite, and where it may lie."""

from __future__ import annotations

import logging
import os
import subprocess
from pathlib import Path

import pytest
from ledger_databases import SCOPE

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.git import find_unignored
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.store import refuse_network
from actito_didomi.errors import SettingsError
from actito_didomi.runtime import Runtime

ROOT = Path(__file__).parents[3]


def modes(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): oct(p.stat().st_mode & 0o777) for p in folder.rglob("*")}


def test_all_files_are_for_their_owner_only(tmp_path: Path) -> None:
    tmp_path /= "work"
    tmp_path.mkdir()
    before = os.umask(0)
    try:
        ledger = Ledger.open(
            LedgerSettings(ledger_url=f"sqlite:///{tmp_path}/ledger.db"), SCOPE, Runtime()
        )
        with ledger.lease("forward", 0), ledger.change(["anna"]):
            pass
        found = modes(tmp_path)
        assert found.pop("ledger.db.locks") == "0o700"
        assert set(found) == {
            "ledger.db",
            "ledger.db-shm",
            "ledger.db-wal",
            "ledger.db.key",
            "ledger.db.locks/1-forward.lock",
        }
        assert set(found.values()) == {"0o600"}
        for name in found:
            (tmp_path / name).chmod(0o644)
        again = Ledger.open(
            LedgerSettings(ledger_url=f"sqlite:///{tmp_path}/ledger.db"), SCOPE, Runtime()
        )
        found = modes(tmp_path)
        del found["ledger.db.locks"], found["ledger.db.locks/1-forward.lock"]  # empty
        assert set(found.values()) == {"0o600"}
        assert again.hash("anna") == ledger.hash("anna")
        again.close()
        ledger.close()
    finally:
        os.umask(before)


@pytest.mark.parametrize(
    ("kind", "refused"), [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False)]
)
def test_a_network_file_system_is_refused(tmp_path: Path, kind: str, refused: bool) -> None:
    share = tmp_path / "a share"
    share.mkdir()
    mounts = tmp_path / "mounts"
    escaped = str(share).replace(" ", "\\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nhost:/x {escaped} {kind} rw 0 0\n")
    refuse_network(tmp_path / "ledger.db", mounts)
    if refused:
        with pytest.raises(SettingsError, match=f"network file system .{kind}"):
            refuse_network(share / "below" / "ledger.db", mounts)
    else:
        refuse_network(share / "ledger.db", mounts)


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/x", "nonsense"])
def test_what_can_not_hold_a_ledger_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="ledger_url"):
        Ledger.open(LedgerSettings(ledger_url=url), SCOPE, Runtime())


def test_a_password_is_in_no_message() -> None:
    settings = LedgerSettings(
        ledger_url="postgresql+psycopg://me:secret-word@127.0.0.1:1/none", ledger_key="key"
    )
    with pytest.raises(SettingsError) as caught:
        Ledger.open(settings, SCOPE, Runtime())
    assert "secret-word" not in str(caught.value)


def test_a_shared_database_needs_a_key() -> None:
    settings = LedgerSettings(ledger_url="postgresql+psycopg://127.0.0.1:1/none")
    with pytest.raises(SettingsError, match="ledger_key is required"):
        Ledger.open(settings, SCOPE, Runtime())


def test_files_that_git_would_take_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = LedgerSettings(ledger_url=f"sqlite:///{tmp_path}/ledger.db")
    assert find_unignored(tmp_path / "ledger.db") == []  # no work tree
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    with caplog.at_level(logging.WARNING):
        Ledger.open(settings, SCOPE, Runtime()).close()
    assert "Add this line" in caplog.text
    assert "ledger.db*" in caplog.text
    (tmp_path / ".gitignore").write_text("*.db\n")
    assert find_unignored(tmp_path / "ledger.db") == ["ledger.db*"]
    (tmp_path / ".gitignore").write_text("ledger.db*\n")
    assert find_unignored(tmp_path / "ledger.db") == []


def test_this_project_ignores_its_own_ledger() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("Not a work tree of git.")
    assert find_unignored(ROOT / "actito-didomi.db") == []
