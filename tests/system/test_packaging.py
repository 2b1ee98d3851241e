"""What is installed, built and shown on a package index."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ["actito_didomi", "target_actito", "target_didomi", "tap_actito", "tap_didomi"]
EXTRAS = ("starlette", "uvicorn", "httptools", "s3fs", "gcsfs", "psycopg", "jsonschema-rs")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_typed(package: str) -> None:
    """Type checkers read its annotations."""
    assert (ROOT / package / "py.typed").is_file()


def test_the_base_package_brings_no_extras() -> None:
    """A plugin alone needs neither a server nor a client of a store or of a database."""
    base = [r for r in requires("actito-didomi") or [] if "extra ==" not in r]
    assert any(r.startswith("singer-sdk") for r in base)
    assert [r for r in base if r.startswith(EXTRAS)] == []


def test_plugins_start_without_what_they_do_not_use() -> None:
    """Nothing of an extra is imported, nor the terminal library."""
    code = (
        "import sys; import target_actito.target, tap_didomi.tap, actito_didomi.commands; "
        "print([m for m in ('starlette', 'uvicorn', 'rich', 'jsonschema_rs') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_validate_records_without_its_extra_says_what_to_install() -> None:
    """Before anything is written."""
    code = (
        "import sys; sys.modules['jsonschema_rs'] = None; sys.argv[0] = 'target-didomi'; "
        "from target_didomi.target import TargetDidomi; TargetDidomi.cli()"
    )
    settings = {
        "TARGET_DIDOMI_VALIDATE_RECORDS": "true",
        "TARGET_DIDOMI_API_KEY": "k",
        "TARGET_DIDOMI_API_SECRET": "s",
        "TARGET_DIDOMI_ORGANIZATION_ID": "o",
        "TARGET_DIDOMI_API_URL": "http://127.0.0.1:9/didomi/v1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, "--config", "ENV"],
        input='{"type": "SCHEMA", "stream": "s", "schema": {"properties": {}}, '
        '"key_properties": []}\n',
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'actito-didomi[validate]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("plugin", ["tap-didomi", "target-actito", "tap-actito", "target-didomi"])
def test_about_is_markdown(plugin: str) -> None:
    """It begins with a heading, and no paragraph is indented."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(plugin)), "--about", "--format=markdown"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"# `{plugin}`\n")
    assert [line for line in done.stdout.splitlines() if line.startswith(" ")] == []


def test_the_source_distribution_holds_what_its_tests_need(tmp_path: Path) -> None:
    """Every file of the project but those of git and of continuous integration."""
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    if not tracked:
        pytest.skip("not a git repository: this is an unpacked source distribution")
    code = "import sys; from hatchling.build import build_sdist; print(build_sdist(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    [archive] = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        built = {name.partition("/")[2] for name in file.getnames()}
    expected = {name for name in tracked if not name.startswith(".ci/")}
    assert expected - built == set()
