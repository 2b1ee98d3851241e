"""Exports of profile changes, and runs of tap-actito that read one stream."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

from support import Run, run_plugin

HEADER = "profileId;customerId;eventType;subscription;subscribed;timestamp;source"


def row(person: str, subscription: str, state: str, timestamp: str, kind: str = "") -> str:
    """Write a line of the export."""
    return f"7;{person};{kind or 'UPDATED_SUBSCRIPTION'};{subscription};{state};{timestamp};LINK"


def write(path: Path, *rows: str, header: str = HEADER) -> None:
    """Write a file of the export, packed by its ending."""
    data = "".join(f"{line}\n" for line in (header, *rows)).encode()
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(data))
    elif path.suffix == ".zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("changes.csv", data)
        path.write_bytes(buffer.getvalue())
    else:
        path.write_bytes(data)


def read(
    config: dict[str, Any], folder: Path, stream: str = "consent_events", state: Any = None
) -> tuple[Run, Any]:
    """Read one stream; give the run and its last state."""
    found = run_plugin("tap-actito", config, folder, "--discover")
    assert found.exit_code == 0, found.err
    catalog = json.loads(found.out)
    for entry in catalog["streams"]:
        for item in entry["metadata"]:
            if item["breadcrumb"] == []:
                item["metadata"]["selected"] = entry["stream"] == stream
    (folder / "catalog.json").write_text(json.dumps(catalog))
    arguments = ["--catalog", str(folder / "catalog.json")]
    if state is not None:
        (folder / "state.json").write_text(json.dumps(state))
        arguments += ["--state", str(folder / "state.json")]
    run = run_plugin("tap-actito", config, folder, *arguments)
    states = [m["value"] for m in run.messages if m["type"] == "STATE"]
    return run, states[-1] if states else state
