"""The sandbox's ETL executions, over HTTP."""

from __future__ import annotations

import io
import json
import time
import zipfile
from typing import Any

import pytest
import requests
from support import Actito

DEFINITION = {
    "profileTableId": "16",
    "keyColumn": "customerId",
    "mode": "UPDATE_ONLY",
    "fileFormat": {"separator": ";", "quote": '"', "encoding": "UTF-8"},
}


def send(
    actito: Actito, content: bytes, etl: str | None = None, **definition: Any
) -> requests.Response:
    """Start an execution: of a predefined ETL, or one shot."""
    base = f"{actito.url}/actito/mass-imports/v5/entities/demo"
    files: dict[str, Any] = {"inputFile": ("people.csv", content)}
    if etl is None:
        files["etlDefinition"] = (
            "definition.json",
            json.dumps({**DEFINITION, **definition}),
            "application/json",
        )
    path = "etl-executions" if etl is None else f"etls/{etl}/trigger-execution"
    return requests.post(f"{base}/{path}", files=files, headers=actito._headers(), timeout=30)


def follow(actito: Actito, answer: requests.Response) -> dict[str, Any]:
    """Wait for an execution's end."""
    assert answer.status_code == 201, answer.text
    url = f"{actito.url}/actito/mass-imports/v5/entities/demo/etl-executions/{answer.json()['id']}"
    headers = actito._headers()
    for _ in range(300):
        found: dict[str, Any] = requests.get(url, headers=headers, timeout=30).json()
        if found["endMoment"]:
            errors = requests.get(f"{url}/errors", headers=headers, timeout=30).json()["errors"]
            return {**found, "errors": errors}
        time.sleep(0.05)
    raise AssertionError("the execution does not end")


def test_a_file_is_loaded_row_by_row_and_never_creates_in_update_only(actito: Actito) -> None:
    """Known people change, unknown ones are passed over, wrong rows are reported."""
    actito.create("a")
    actito.create("b", Newsletter=True)
    csv = b'customerId;Newsletter;loyaltyPoints\na;Y;7\n"x;y";Y;1\nb;N;many\n'
    end = follow(actito, send(actito, csv))
    assert (end["status"], end["rowsRead"], end["rowsUpdated"]) == ("WITH_ERROR", 3, 1)
    assert [(e["line"], e["key"]) for e in end["errors"]] == [(4, "b")]
    assert actito.subscriptions("a")["Newsletter"] is True
    assert actito.attributes("a")["loyaltyPoints"] == 7
    assert actito.subscriptions("b")["Newsletter"] is True
    assert set(actito.all()) == {"a", "b"}


def test_create_or_update_creates(actito: Actito) -> None:
    """A predefined ETL needs the file only; its mode is its own."""
    csv = "customerId;lastName;Newsletter\nzoé;Łukasz;Y\n".encode()
    end = follow(actito, send(actito, csv, etl="502"))
    assert (end["status"], end["rowsCreated"]) == ("SUCCESS", 1)
    assert actito.attributes("zoé")["lastName"] == "Łukasz"


@pytest.mark.parametrize("clears", [True, False])
def test_an_empty_cell_clears_or_leaves(actito: Actito, clears: bool) -> None:
    """Nobody knows which, hence the switch."""
    actito.steer("options", {"etl_empty_clears": clears})
    actito.create("a", Newsletter=True, attributes={"shop": "Gent"})
    follow(actito, send(actito, b"customerId;Newsletter;shop\na;;\n"))
    assert actito.subscriptions("a")["Newsletter"] is not clears
    assert ("shop" in actito.attributes("a")) is not clears


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xef\xbb\xbfcustomerId;Newsletter\na;Y\n", "byte order mark"),
        (b"customerId;Newsletter\na;Y;Y\n", "number of columns"),
        (b"customerId;Colour\na;Y\n", "Unknown columns"),
        (b"Newsletter\nY\n", "key column"),
        (b"customerId;Newsletter\n\xff;Y\n", "not valid UTF-8"),
        (b"PK broken", "damaged"),
        (b"", "no header"),
    ],
)
def test_a_broken_file_fails_its_validation(actito: Actito, content: bytes, message: str) -> None:
    """The whole file fails, and nothing of it is loaded."""
    actito.create("a")
    end = follow(actito, send(actito, content))
    assert end["status"] == "FAILURE"
    assert message in end["message"]
    assert actito.subscriptions("a")["Newsletter"] is False


@pytest.mark.parametrize("scope", ["etl", "table", "licence"])
def test_the_days_executions_are_counted(actito: Actito, scope: str) -> None:
    """Beyond them a request gets status 429."""
    actito.steer("options", {"etl_per_day": 2, "etl_quota_scope": scope})
    csv = b"customerId;Newsletter\n"
    assert [send(actito, csv, etl=e).status_code for e in ("501", "501", "501", "502")] == [
        201,
        201,
        429,
        201 if scope == "etl" else 429,
    ]


def test_a_large_file_and_a_missing_part_are_refused(actito: Actito) -> None:
    """As documented: 400."""
    actito.steer("options", {"etl_max_bytes": 50, "etl_definition_part": "parameters"})
    csv = b"customerId;Newsletter\n" + b"a;Y\n" * 20
    assert send(actito, csv, etl="501").status_code == 400
    assert "parameters" in send(actito, b"customerId\n").json()["message"]
    assert send(actito, b"customerId\n", etl="999").status_code == 404


def test_a_zip_with_one_file_is_unpacked(actito: Actito) -> None:
    """Zipped files are taken as well."""
    actito.create("a")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("people.csv", b"customerId;Newsletter\na;Y\n")
    assert follow(actito, send(actito, packed.getvalue()))["status"] == "SUCCESS"
    assert actito.subscriptions("a")["Newsletter"] is True
