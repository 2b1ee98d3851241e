from __future__ import annotations

import logging
import os
import signal
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from support import Actito, target_config

from actito_didomi import privacy
from actito_didomi.sandbox.options import SandboxOptions
from actito_didomi.sandbox.server import BackgroundSandbox

# Machines are noisy: no test fails for being slow.
settings.register_profile("default", deadline=None)
settings.load_profile("default")

SANDBOXES = 8
"""How many may be stopping at a time."""


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> None:
    for name in list(os.environ):
        if name.startswith(("TAP_", "TARGET_", "MELTANO_", "LOGLEVEL")):
            del os.environ[name]


@pytest.fixture(autouse=True)
def _keep_signals_and_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plugins set signal handlers, filters and secrets when they are made in this process."""
    monkeypatch.setattr(privacy, "_secrets", set())
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    filters = {h: list(h.filters) for h in logging.getLogger().handlers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    for log_handler, kept in filters.items():
        log_handler.filters[:] = kept


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Import files of one test are not those of another, nor are its imports counted there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def options() -> SandboxOptions:
    """Switches of the sandbox; a module may override this."""
    return SandboxOptions(limits=False)


@pytest.fixture(scope="session")
def _ending() -> Iterator[deque[ExitStack]]:
    """Sandboxes of the last tests: each stops while the next tests run."""
    found: deque[ExitStack] = deque()
    yield found
    for stack in found:
        stack.close()


@pytest.fixture
def url(options: SandboxOptions, _ending: deque[ExitStack]) -> Iterator[str]:
    """A sandbox of the test's own."""
    stack = ExitStack()
    _ending.append(stack)
    sandbox = stack.enter_context(BackgroundSandbox(options))
    yield sandbox.url
    sandbox.ask_to_stop()
    if len(_ending) > SANDBOXES:
        _ending.popleft().close()


@pytest.fixture
def actito(url: str) -> Actito:
    """The sandbox's Actito."""
    return Actito(url)


@pytest.fixture
def config(url: str, tmp_path: Path) -> dict[str, Any]:
    """Settings of target-actito for the sandbox."""
    return target_config(url, tmp_path)
