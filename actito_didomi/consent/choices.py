"""The choices in consents: read from any of their forms, written in the form of an event. Pure.

A choice has a path, as mappings name it: `("consents", "channels", "email", "enabled")`, or
`("consents", "purposes", PURPOSE, "values", PREFERENCE, VALUE)` for a value of a preference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from actito_didomi import codes
from actito_didomi.consent.conflicts import resolve_tie
from actito_didomi.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

Path = tuple[str, ...]
Answer = tuple[str, ...]
"""The values of a preference that are chosen, in their order in the record."""

CHOICES = ("enabled", "enabled_li")
"""Keys of choices."""
_NODES = ("channels", "purposes", "preferences")
_VENDORS = (
    ("enabled", "enabled", True),
    ("disabled", "enabled", False),
    ("enabled_li", "enabled_li", True),
    ("disabled_li", "enabled_li", False),
)
_VALUE_PARTS = 6
"""Parts of a path to a value of a preference."""


@dataclass(frozen=True)
class ConsentChoices:
    """What consents say.

    Attributes:
        single: Choices by their path; null and absent ones are left out.
        answers: Whole answers to preferences of the current format, by the path without the value.
    """

    single: Mapping[Path, bool] = field(default_factory=dict)
    answers: Mapping[Path, Answer] = field(default_factory=dict)

    def says(self, path: Path) -> bool | None:
        """Return the choice at a path; None where there is none."""
        if path in self.single:
            return self.single[path]
        answer = self.answers.get(path[:-1])
        return None if answer is None else path[-1] in answer

    def after(self, later: ConsentChoices) -> ConsentChoices:
        """Return what counts after later choices."""
        return ConsentChoices({**self.single, **later.single}, {**self.answers, **later.answers})


def is_value(path: Path) -> bool:
    """Return whether a path leads to a value of a preference."""
    return len(path) == _VALUE_PARTS and path[3] == "values"


_ODD_NO = frozenset({"false", "0", "0.0", "no", "off", "n"})
_ODD_YES = frozenset({"true", "1", "1.0", "yes", "on", "y"})


def read_odd_boolean(value: Any) -> bool | None:
    """Read a choice that is not a boolean, such as `"false"`, `0` or `"no"`.

    An opt-out is carried out whatever its spelling; an opt-in must be spelt as documented.

    Returns:
        What it seems to say; None where that can't be known.
    """
    if not isinstance(value, (str, int, float)):
        return None
    text = str(value).strip().lower()
    if text in _ODD_YES:
        return True
    return False if text in _ODD_NO else None


def split_answer(answer: str) -> list[str]:
    """Split an answer of the current format into the ids of the values chosen."""
    return [value_id.strip() for value_id in answer.split(",")]


def read_choices(consents: Mapping[str, Any]) -> ConsentChoices:
    """Read consents of an event or a user.

    Values of a preference may stand as Didomi's API has them (below a purpose, an object of
    comma-separated texts), or below a preference as a list of `{id, enabled}`.

    Raises:
        BadInputError: They are not of Didomi's form. The message holds no value of them.
    """
    single: dict[Path, bool] = {}
    answers: dict[Path, Answer] = {}
    for path, found in _walk(consents, ("consents",)):
        if isinstance(found, tuple):
            # Of an answer that is repeated, a value that is not in each is an opt-out.
            answers[path] = tuple(value for value in answers.get(path, found) if value in found)
        else:
            single[path] = resolve_tie(single.get(path), found)
    vendors = _object(consents, "vendors")
    for part, kind, choice in _VENDORS:
        for vendor in _list(vendors, part):
            path = ("consents", "vendors", str(vendor), kind)
            single[path] = resolve_tie(single.get(path), choice)
    return ConsentChoices(single, answers)


def readable(consents: Any) -> dict[str, Any]:
    """Return consents without the nodes that are not of Didomi's form.

    One odd node never stops what else is said: `read_choices` reads the result without an error.
    Of choices that are not booleans, opt-outs are kept.
    """
    if not isinstance(consents, dict):
        return {}
    kept = _readable(consents)
    vendors = consents.get("vendors")
    if isinstance(vendors, dict):
        kept["vendors"] = {
            part: [vendor for vendor in found if isinstance(vendor, (str, int))]
            for part, found in vendors.items()
            if isinstance(found, list)
        }
    return kept


def _readable(node: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name in CHOICES:
        choice = node.get(name)
        if isinstance(choice, bool):
            kept[name] = choice
        elif choice is not None and read_odd_boolean(choice) is False:
            kept[name] = False
    for name in (*_NODES, "values"):
        below = node.get(name)
        if isinstance(below, list):
            kept[name] = [
                {**_readable(element), "id": element["id"]}
                for element in below
                if isinstance(element, dict) and isinstance(element.get("id"), str)
            ]
    if isinstance(node.get("values"), dict):
        kept["values"] = node["values"]
    return kept


def _walk(node: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, bool | Answer]]:
    for name in CHOICES:
        choice = node.get(name)
        if choice is not None:
            if not isinstance(choice, bool):
                raise BadInputError(
                    codes.INVALID_RECORD, f"`{name}` of a choice must be true, false or null."
                )
            yield (*path, name), choice
    for name in _NODES:
        for below in _nodes(node, name):
            yield from _walk(below, (*path, name, below["id"]))
    values = node.get("values")
    if isinstance(values, dict):
        yield from _answers(values, (*path, "values"))
    elif values is not None:
        # A preference's own path, without `preferences`: as the current format has it.
        for value in _nodes(node, "values"):
            if isinstance(value.get("enabled"), bool):
                yield (*path[:3], "values", path[-1], value["id"]), value["enabled"]


def _answers(values: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, Answer]]:
    for preference, answer in values.items():
        text = answer.get("value") if isinstance(answer, dict) else None
        if isinstance(text, str):
            yield (*path, preference), tuple(filter(None, split_answer(text)))


def _nodes(node: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = _list(node, name)
    if not all(isinstance(below, dict) and isinstance(below.get("id"), str) for below in found):
        raise BadInputError(
            codes.INVALID_RECORD, f"`{name}` of consents must hold only objects with an `id`."
        )
    return found


def _list(node: Mapping[str, Any], name: str) -> list[Any]:
    found = node.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise BadInputError(codes.INVALID_RECORD, f"`{name}` of consents must be a list.")
    return found


def _object(node: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = node.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise BadInputError(codes.INVALID_RECORD, f"`{name}` of consents must be an object.")
    return found


def to_consents(
    choices: Iterable[tuple[Path, bool]], answers: Iterable[tuple[Path, Answer]] = ()
) -> dict[str, Any]:
    """Return the consents of an event.

    Args:
        choices: Choices by their paths, each once. A value of a preference is put among the
            preference's `values`, each with `enabled`: which others are chosen isn't known.
        answers: Whole answers to preferences, as Didomi's API has them.
    """
    consents: dict[str, Any] = {}
    for path, choice in choices:
        steps = list(path[1:])
        if steps[0] == "vendors":
            part = next(p for p, kind, c in _VENDORS if (kind, c) == (steps[2], choice))
            consents.setdefault("vendors", {}).setdefault(part, []).append(steps[1])
            continue
        if is_value(path):
            steps = [steps[0], steps[1], "preferences", steps[3], "values", steps[4], "enabled"]
        _node_at(consents, steps[:-1])[steps[-1]] = choice
    for path, answer in answers:
        purpose = _node_at(consents, path[1:3])
        purpose.setdefault("values", {})[path[4]] = {"value": ",".join(answer)}
    return consents


def _node_at(consents: dict[str, Any], steps: Iterable[str]) -> dict[str, Any]:
    """Return the node that names and ids in turn lead to; it is added if it is missing."""
    node, steps = consents, list(steps)
    for name, key in zip(steps[::2], steps[1::2], strict=True):
        nodes = node.setdefault(name, [])
        found = next((n for n in nodes if n["id"] == key), None)
        if found is None:
            found = {"id": key}
            nodes.append(found)
        node = found
    return node
