"""Plugins as processes of their own that start at once.

To import a plugin takes a second of computing, most of what a test of one costs. So one process
imports them all, and each run is a fork of it: with its own pipes, environment and folder, signals
as at the start of a process, and the interpreter's own end.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import importlib.metadata
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

NUMBER = struct.Struct("i")
"""How the process that waits for another sends its id, and then its exit status."""

# ---------------------------------------------------------------------------- in the test's process


class Process:
    """A command that was started, as `subprocess.Popen` shows one.

    Attributes:
        pid: Its id.
        stdin: The pipe that it reads, unbuffered; closed where it reads something else.
        stdout: The pipe that it writes, unbuffered; closed where it writes something else.
        returncode: Its exit status, or less than zero for the signal that ended it; None before.
    """

    def __init__(self, answers: int, stdin: FileIO, stdout: FileIO) -> None:
        self._answers, self.stdin, self.stdout = answers, stdin, stdout
        self._lock = threading.Lock()
        weakref.finalize(self, os.close, answers)
        self.pid = _read_number(answers)
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipes, and wait for its end."""
        self.stdin.close()
        self.stdout.close()
        self.wait()

    def poll(self) -> int | None:
        """Return how it ended, if it has."""
        return self._look(0)

    def wait(self, timeout: float = 120) -> int:
        """Return how it ends.

        Raises:
            TimeoutError: It hasn't ended in time, and was killed.
        """
        if (status := self._look(timeout)) is None:
            self.kill()
            raise TimeoutError(f"Process {self.pid} hasn't ended within {timeout} s.")
        return status

    def _look(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._answers], [], [], timeout)[0]:
            with self._lock:
                if self.returncode is None:
                    self.returncode = _read_number(self._answers)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def start(
    command: str,
    arguments: list[str],
    folder: Path,
    environment: dict[str, str],
    *,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    log: IO[bytes],
) -> Process:
    """Start a command of this project in a folder, with pipes for what isn't given."""
    read, source = os.pipe()
    out, write = os.pipe()
    answers, answer = os.pipe()
    pipes = FileIO(source, "w"), FileIO(out, "r")
    passed = [
        stdin.fileno() if stdin else read,
        stdout.fileno() if stdout else write,
        log.fileno(),
        answer,
    ]
    request = [command, arguments, str(folder), environment]
    socket.send_fds(_server(), [json.dumps(request).encode()], passed)
    for number in (read, write, answer):
        os.close(number)
    for given, pipe in zip((stdin, stdout), pipes, strict=True):
        if given:
            pipe.close()
    return Process(answers, *pipes)


def run(
    command: str, arguments: list[str], stdin: bytes, folder: Path, environment: dict[str, str]
) -> tuple[int, str, str]:
    """Run a command of this project in a folder; return its exit status, output and log."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as log:
        process = start(command, arguments, folder, environment, stdout=out, log=log)
        feed(process, stdin)
        status = process.wait()
        for file in (out, log):
            file.seek(0)
        return status, out.read().decode(), log.read().decode()


def feed(process: Process, data: bytes, *, close: bool = True) -> None:
    """Write input to a process, which needn't read it."""
    rest = memoryview(data)
    with contextlib.suppress(BrokenPipeError):
        while rest:
            rest = rest[process.stdin.write(rest) :]
    if close:
        process.stdin.close()


def _read_number(answers: int) -> int:
    (number,) = NUMBER.unpack(os.read(answers, NUMBER.size))
    return int(number)


@functools.cache
def _server() -> socket.socket:
    """Start the process to fork from, once for the process; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    theirs.close()

    def stop() -> None:
        ours.close()
        process.wait()

    atexit.register(stop)
    return ours


# ---------------------------------------------------------------------- in the process to fork from


def serve(requests: socket.socket) -> Callable[[], int | None]:
    """Fork for each request; return, in each fork, what it is to run."""
    entries = importlib.metadata.distribution("actito-didomi").entry_points
    for entry in entries:
        importlib.import_module(entry.module)
    gc.freeze()  # or each fork looks through all that was imported, and copies it, at its end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with the tests
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who wait
    while True:
        message, passed, _, _ = socket.recv_fds(requests, 1 << 20, 4)
        if not message:
            os._exit(0)  # the tests have ended
        if not os.fork():
            break
        for number in passed:
            os.close(number)
    requests.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    command, arguments, folder, environment = json.loads(message)
    *standard, answer = passed
    if child := os.fork():
        _wait(child, answer, standard)
    os.close(answer)
    for number, passed_number in enumerate(standard):
        os.dup2(passed_number, number)
        os.close(passed_number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = [str(Path(sys.executable).with_name(command)), *arguments]
    # Only now: to look at a command of the SDK sets up the log of its plugin.
    found: Callable[[], int | None] = entries[command].load()
    return found


def _wait(child: int, answer: int, standard: list[int]) -> None:
    """Send the id of a process, and how it ended."""
    for number in standard:
        os.close(number)
    os.write(answer, NUMBER.pack(child))
    _, status = os.waitpid(child, 0)
    os.write(answer, NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


if __name__ == "__main__":
    sys.exit(serve(socket.socket(fileno=int(sys.argv[1])))())
