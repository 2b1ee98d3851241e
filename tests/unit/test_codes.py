"""Every error, reject and skip has a code of the one table, and every code is used."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from code_reference import read_texts
from singer_sdk import exceptions as sdk

from actito_didomi import codes, errors
from actito_didomi.codes import GROUPS, TABLE, Code
from actito_didomi.consent.scope import Scope
from actito_didomi.plugin.rejects import Reject
from actito_didomi.plugin.summary import Summary

ROOT = Path(__file__).parents[2]
PACKAGES = ["actito_didomi", "target_actito", "target_didomi", "tap_actito", "tap_didomi"]


def classes() -> list[type[errors.ActitoDidomiError]]:
    """The whole family of errors."""
    found = [errors.ActitoDidomiError]
    for error in found:
        found += error.__subclasses__()
    return found


def test_numbers_and_names_are_unique_and_belong_together() -> None:
    """A name is its constant's in lower case; a number lies in a group."""
    assert len({code.number for code in TABLE}) == len({code.name for code in TABLE}) == len(TABLE)
    for code in TABLE:
        assert getattr(codes, code.name.upper()) is code
        assert code.number // 100 in GROUPS


def test_every_code_says_what_happened_and_what_to_do() -> None:
    """In sentences that fit into a table."""
    texts = read_texts()
    assert set(texts) == {code.name for code in TABLE}
    for part in (text for pair in texts.values() for text in pair):
        assert part.endswith(".")
        assert "|" not in part


def test_published_codes_stay() -> None:
    """Programs go by these: add new ones, and never change or reuse one."""
    assert [str(code) for code in TABLE] == (
        (Path(__file__).parent / "codes.txt").read_text(encoding="utf-8").split("\n")[:-1]
    )


def test_every_code_is_used() -> None:
    """By its constant, in product code outside of the table."""
    used = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            used |= {
                node.attr.lower()
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id == "codes"
                and isinstance(getattr(codes, node.attr, None), Code)
            }
    assert used == {code.name for code in TABLE}


@pytest.mark.parametrize("error", classes(), ids=lambda error: error.__name__)
def test_every_error_has_a_code(error: type[errors.ActitoDidomiError]) -> None:
    """Passed where it is raised, or set by its class; the text shows it."""
    parameters = inspect.signature(error).parameters
    values = {"code": codes.UNKNOWN_TABLE, "message": "Text.", "errors": ["Text."]}
    more = {"status": 400, "body": "", "deferred": 1}
    required = [n for n, p in parameters.items() if p.default is p.empty]
    made = error(**{name: {**values, **more}[name] for name in required})
    assert isinstance(made.code, Code)
    assert str(made) == f"{made.code}: {made.message}"
    assert errors.code_of(made) is made.code


def test_no_error_of_the_project_stands_outside_of_the_family() -> None:
    """Errors that leave a module are in `errors`; a class elsewhere derives from none of them."""
    for package in map(importlib.import_module, PACKAGES):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    assert {error.__module__ for error in classes()} == {"actito_didomi.errors"}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (errors.ActitoDidomiError, sdk.SingerSDKError),
        (errors.SettingsError, sdk.ConfigurationError),
        (errors.InvalidMappingError, sdk.ConfigurationError),
        (errors.InvalidSettingsError, sdk.ConfigValidationError),
        (errors.BadInputError, sdk.DataError),
        (errors.ApiError, sdk.FatalAPIError),
        (errors.TooManyRejectsError, sdk.FatalSyncError),
        (errors.OptOutsRejectedError, sdk.FatalSyncError),
    ],
)
def test_a_host_that_catches_the_sdks_errors_catches_ours(
    ours: type[BaseException], theirs: type[BaseException]
) -> None:
    """And none has the name of one of the SDK's."""
    assert issubclass(ours, theirs)
    assert not {error.__name__ for error in classes()} & set(sdk.__all__)


def test_a_reject_needs_a_code() -> None:
    """There is no default."""
    with pytest.raises(TypeError):
        Reject(reason="Text.")  # type: ignore[call-arg]


def test_skips_are_codes_of_that_kind() -> None:
    """The scope gives codes, and the summary counts them by name."""
    scope = Scope("gdpr", frozenset({"me"}))
    found = [
        scope.reason_to_skip("", None, None, None),
        scope.reason_to_skip("p", "pending", None, None),
        scope.reason_to_skip("p", None, "cpra", None),
        scope.reason_to_skip("p", None, "gdpr", "me"),
    ]
    assert all(code is not None and code.kind == "skip" for code in found)
    summary = Summary()
    for code in found:
        assert code is not None
        summary.skip(code)
    assert summary.skipped == {
        "guest": 1,
        "not_confirmed": 1,
        "other_regulation": 1,
        "delegate": 1,
    }


def test_a_failed_check_of_settings_shows_a_code_per_line() -> None:
    """Its own where it has one."""
    error = errors.InvalidSettingsError(["a: expected b.", f"{codes.INVALID_MAPPING}: c."])
    assert error.errors == ["AD101 invalid_setting: a: expected b.", "AD102 invalid_mapping: c."]
