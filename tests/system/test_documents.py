"""The documents are right: links lead somewhere, keys are described, the tutorial works."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from actito_didomi.sandbox.options import SandboxOptions
from target_actito.summary import ActitoSummary
from target_didomi.summary import DidomiSummary

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
LINK = re.compile(r"\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def read(path: Path) -> str:
    """Read a document."""
    return path.read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as Markdown viewers make them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", read(path)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_readme_is_short_and_has_no_relative_links() -> None:
    """A package index shows it alone: a relative link would be dead there."""
    text = read(ROOT / "README.md")
    assert len(text.splitlines()) <= 120
    assert [t for t in LINK.findall(text) if not t.startswith("https://")] == []
    for path in re.findall(r"`((?:docs|benchmarks|examples)/[^`\s]+|[A-Z]+\.md|LICENSE)`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """To a page, and to a heading on it."""
    for target in LINK.findall(BLOCK.sub("", read(page))):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target


def test_the_index_lists_every_page() -> None:
    """Nobody has to guess what there is."""
    linked = {
        (DOCS / t.partition("#")[0]).resolve() for t in LINK.findall(read(DOCS / "README.md"))
    }
    assert [page for page in PAGES if page.name != "README.md" and page not in linked] == []


def test_every_key_of_a_report_is_described() -> None:
    """On the page about reports."""
    text = read(DOCS / "reference" / "reports.md")
    for summary in (ActitoSummary, DidomiSummary):
        for field in dataclasses.fields(summary):
            assert f"| `{field.name}` |" in text, field.name


def test_every_switch_of_the_sandbox_is_described() -> None:
    """As a switch, or as an option of the command."""
    text = read(DOCS / "reference" / "sandbox.md")
    for field in dataclasses.fields(SandboxOptions):
        option = {"limits": "no-limits"}.get(field.name, field.name.replace("_", "-"))
        assert f"| `{field.name}` |" in text or f"| `--{option}` |" in text, field.name


def test_every_command_of_make_is_explained() -> None:
    """By `make help`."""
    makefile = read(ROOT / "Makefile")
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE)) == set(phony.split())


def run_printed(commands: str, folder: Path) -> str:
    """Run printed commands against a sandbox on a free port; return all that they print.

    Args:
        commands: The commands, which start the sandbox on its usual port.
        folder: Where to run them: it is created, with the examples.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shutil.copytree(ROOT / "examples", folder)
    for path in folder.iterdir():
        path.write_text(path.read_text(encoding="utf-8").replace("8700", port), encoding="utf-8")
    commands = commands.replace("8700", port).replace("sandbox ", f"sandbox --port {port} ")
    script = "set -eo pipefail -m\ntrap 'kill -INT %1 2> /dev/null || true' EXIT\n" + commands
    environment = {
        "HOME": str(folder.parent),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}/usr/local/bin:/usr/bin:/bin",
    }
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout.replace(port, "8700")


def test_the_readme_works_as_it_is_printed(tmp_path: Path) -> None:
    """The pipe of a tap and a target, after the lines that choose environment and folder."""
    [block] = [
        text for _, text in BLOCK.findall(read(ROOT / "README.md")) if "| target-actito" in text
    ]
    lines = block.splitlines()
    assert lines[:2] == [
        ". .venv/bin/activate",
        "mkdir -p /tmp/try && cp examples/* /tmp/try && cd /tmp/try",
    ]
    folder = tmp_path / "try"
    printed = run_printed("\n".join(lines[2:]), folder)
    assert "Summary (success)" in printed
    assert (folder / "state.json").read_text().startswith('{"bookmarks":')


def test_the_tutorial_works_as_it_is_printed(tmp_path: Path) -> None:
    """From the second step on: every command works, and prints what is shown."""
    blocks = BLOCK.findall(read(DOCS / "tutorial.md").partition("\n## 2. ")[2])
    folder = tmp_path / "tutorial"
    printed = run_printed("\n".join(text for kind, text in blocks if kind == "bash"), folder)
    for kind, text in blocks:
        for line in text.splitlines() if kind == "text" else []:
            if not line.startswith(("  time ", "  people 200,")):
                assert line in printed, f"{line!r} is not in:\n{printed}"
    assert not folder.exists()
