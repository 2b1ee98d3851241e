"""Checks of settings against Actito and Didomi before the first run. Nothing is written."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import structs

from actito_didomi.actito import ProfileTable, read_table
from actito_didomi.actito import config as actito_config
from actito_didomi.actito import session as actito_session
from actito_didomi.actito.config import ActitoSettings
from actito_didomi.actito.listing import list_profiles
from actito_didomi.codes import (
    CLOCK_SKEW,
    INVALID_MAPPING,
    MAPPING_SILENT,
    TOO_MANY_OPT_INS,
    UNMATCHED,
)
from actito_didomi.consent.known_ids import KnownIds
from actito_didomi.consent.mapping import (
    Resolver,
    check_inverted,
    check_mappings,
    flat_name,
    flatten,
)
from actito_didomi.consent.mapping_watch import MappingWatch, check_roots
from actito_didomi.consent.records import read_record
from actito_didomi.consent.reverse_mapping import reverse_mappings
from actito_didomi.didomi import config as didomi_config
from actito_didomi.didomi import session as didomi_session
from actito_didomi.didomi.config import DidomiSettings
from actito_didomi.didomi.consents import ConsentApi
from actito_didomi.didomi.lists import pages
from actito_didomi.errors import ActitoDidomiError, InvalidSettingsError, code_of
from actito_didomi.http import ClientSettings
from actito_didomi.plugin.config import Connector, Mappings
from actito_didomi.plugin.fields import check_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from actito_didomi.actito import TableStructure
    from actito_didomi.actito.session import ActitoSession
    from actito_didomi.consent.leases import Direction
    from actito_didomi.consent.mapping import Mapping
    from actito_didomi.http import ApiSession
    from actito_didomi.runtime import Runtime

State = Literal["ok", "warning", "mistake", "not_checked"]

_USERS = "/consents/users"
_NEVER_MAPPED = frozenset({"vendors", "tcfcs"})
_TIMEOUT = 15.0
_LOOKED_UP = 20
"""People of the sample whose profiles are looked up, with one request each."""
_FEWEST = 20
"""People of a sample that say something of a mapping."""
_SKEW = 60.0
_HALF, _NEARLY_ALL = 0.5, 0.75
_FEW = 10
"""People from which on it says something that none, or nearly all, are so."""


class ActitoSide(msgspec.Struct, frozen=True, kw_only=True):
    """What a check needs of the settings of a plugin of Actito."""

    actito: ActitoSettings
    connector: Connector = ""
    mappings: Mappings = ()
    allow_invert: bool = False
    client: ClientSettings


class DidomiSide(msgspec.Struct, frozen=True, kw_only=True):
    """What a check needs of the settings of a plugin of Didomi."""

    didomi: DidomiSettings
    client: ClientSettings


@dataclass
class Step:
    """A step of a check.

    Attributes:
        name: What is checked.
        state: What came of it.
        text: What was found, or what is wrong and what to do.
        code: Name of the code of what is wrong; empty where nothing is.
        seconds: How long it took.
    """

    name: str
    state: State = "ok"
    text: str = ""
    code: str = ""
    seconds: float = 0.0


@dataclass
class _Sample:
    """Consent users in Didomi.

    Attributes:
        people: Keys of the people.
        users: The users.
        choices: What people chose, by the id of the mapping.
        profiles: The subscriptions of those who were looked up.
    """

    people: list[str] = field(default_factory=list)
    users: list[dict[str, Any]] = field(default_factory=list)
    choices: dict[str, dict[str, bool]] = field(default_factory=dict)
    profiles: dict[str, dict[str, bool]] = field(default_factory=dict)


class Check:
    """Checks the settings of a direction; `steps` yields what it finds, step by step.

    Args:
        actito: Settings on Actito; None where there are none.
        didomi: Settings on Didomi; None where there are none.
        direction: Of the sync.
        sample: How many consent users are read at most.
        offline: Whether no request is made.
        runtime: Clock and transport.
    """

    def __init__(
        self,
        actito: ActitoSide | None,
        didomi: DidomiSide | None,
        *,
        direction: Direction,
        sample: int,
        offline: bool,
        runtime: Runtime,
    ) -> None:
        self._actito = actito
        self._didomi = didomi
        self._direction = direction
        self._most = sample
        self._offline = offline
        self._runtime = runtime
        self._table: TableStructure | None = None
        self._session: ActitoSession | None = None
        self._didomi_session: ApiSession | None = None
        self._known: KnownIds | None = None

    def steps(self) -> Iterator[Step]:
        """Yield the steps, each once it is done."""
        yield self._step_of("mappings", self._check_mappings)
        if self._offline:
            yield Step("Actito and Didomi", "not_checked", "--offline: no request is made")
            return
        yield self._step_of("Actito: address, key, entity, table", self._check_table)
        yield self._step_of("Actito: fields of the mappings", self._check_fields)
        yield self._step_of("Actito: a profile can be read", self._check_reading)
        yield self._step_of("Actito: clock", self._check_clock)
        yield self._step_of("Didomi: address and key", self._check_tree)
        yield from self._check_names()
        sample = _Sample()
        yield self._step_of("Didomi: consent users", lambda step: self._read_sample(step, sample))
        yield self._step_of("mappings and people", lambda step: self._check_sample(step, sample))
        yield self._step_of("people and profiles", lambda step: self._check_people(step, sample))
        yield self._step_of("choices and profiles", lambda step: self._compare(step, sample))
        if self._direction == "forward":
            text = "nothing is written, so the first run shows whether the key may change profiles"
            yield Step("Actito: the right to write", "not_checked", text)

    def read_names(self) -> tuple[list[str], list[str], tuple[Mapping, ...]]:
        """Return the subscriptions of the table, the names of choices in Didomi, and the mappings.

        Raises:
            InvalidSettingsError: Settings of a side are missing.
            ActitoDidomiError: A side can't be read.
        """
        sample = _Sample()
        for name, work in (
            ("Actito", self._check_table),
            ("Didomi", self._check_tree),
            ("Didomi", lambda step: self._read_sample(step, sample)),
        ):
            step = Step(name)
            work(step)
            if step.state == "not_checked":
                raise InvalidSettingsError([f"{step.text}. Both sides are needed."])
        table, known, side = self._table, self._known, self._actito
        if table is None or known is None or side is None:
            raise InvalidSettingsError(["Settings of both sides are needed."])
        seen = {
            path: value
            for user in sample.users
            if isinstance(user.get("consents"), dict)
            for path, value in flatten({"consents": user["consents"]})
            if path[1] not in _NEVER_MAPPED
        }
        # The tree doesn't say which preferences belong to which purpose: those that were seen.
        answered = tuple(f"{flat_name(path[:-1])}_" for path in seen if path[-1] == "value")
        names = dict.fromkeys(
            name
            for name in known.names()
            if "_values_" not in name or not seen or name.startswith(answered)
        )
        names |= {flat_name(path): None for path, value in seen.items() if isinstance(value, bool)}
        return list(table.subscriptions), list(names), side.mappings

    def _step_of(self, name: str, work: Callable[[Step], None]) -> Step:
        """Return a step after its work, or what ended it."""
        step = Step(name)
        began = self._runtime.monotonic()
        try:
            work(step)
        except InvalidSettingsError as error:
            step.state, step.text = "mistake", " ".join(error.errors)
            step.code = code_of(error).name
        except ActitoDidomiError as error:
            step.state, step.text = "mistake", error.message
            step.code = error.code.name
        step.seconds = self._runtime.monotonic() - began
        return step

    # Without a request

    def _check_mappings(self, step: Step) -> None:
        side = self._actito
        if side is None or not side.mappings:
            _leave_out(step, "mappings are missing")
            return
        check_mappings(side.mappings)
        check_roots(side.mappings)
        check_inverted(side.mappings, allowed=side.allow_invert)
        if self._direction == "reverse":
            reverse_mappings(side.mappings)
        step.text = f"{len(side.mappings)}, each can be read"

    # Actito

    def _check_table(self, step: Step) -> None:
        side = self._actito
        if side is None or (missing := actito_config.missing_settings(side.actito)):
            names = missing if side is not None else actito_config.REQUIRED
            _leave_out(step, f"{', '.join(names)} of Actito are not set")
            return
        if problems := actito_config.find_account_problems(side.actito, side.client):
            raise InvalidSettingsError(problems)
        actito = side.actito
        session = actito_session.open_session(
            actito, _impatient(side.client), max_concurrency=1, stop=self._runtime.event(),
            runtime=self._runtime,
        )  # fmt: skip
        self._table = read_table(
            session, actito.entity_id, actito.table_name, actito.user_unique_key
        )
        self._session = session
        step.text = f"table {self._table.name}, matched by {actito.user_unique_key}"

    def _check_fields(self, step: Step) -> None:
        side = self._actito
        if side is None or self._table is None or not side.mappings:
            _leave_out(step, "the table or the mappings are not known")
            return
        with _quiet():
            check_fields(self._table, side.actito.user_unique_key, side.mappings)
        named = {mapping.id for mapping in side.mappings}
        if left := [name for name in self._table.subscriptions if name not in named]:
            step.text = f"all exist; subscriptions that no mapping names: {', '.join(left)}"
        else:
            step.text = "all exist, and can be written"

    def _check_reading(self, step: Step) -> None:
        if self._session is None or self._table is None:
            _leave_out(step, "the table is not known")
            return
        pages_found = list_profiles(self._session, self._table, 1, self._runtime)
        found = next(pages_found, None)
        step.text = "the table is empty" if not found else "one was read, nothing was written"

    def _check_clock(self, step: Step) -> None:
        if self._session is None:
            _leave_out(step, "Actito did not respond")
        elif abs(self._session.skew) > _SKEW:
            step.state, step.code = "warning", CLOCK_SKEW.name
            step.text = f"differs from that of this machine by {self._session.skew:.0f} s"
        else:
            step.text = "agrees with that of this machine"

    # Didomi

    def _check_tree(self, step: Step) -> None:
        side = self._didomi
        if side is None or (missing := didomi_config.missing_settings(side.didomi)):
            names = missing if side is not None else didomi_config.REQUIRED
            _leave_out(step, f"{', '.join(names)} of Didomi are not set")
            return
        if problems := didomi_config.find_organization_problems(side.didomi, side.client):
            raise InvalidSettingsError(problems)
        self._didomi_session = didomi_session.open_session(
            side.didomi, _impatient(side.client), stop=self._runtime.event(),
            runtime=self._runtime,
        )  # fmt: skip
        api = ConsentApi(
            self._didomi_session, side.didomi.organization_id, side.didomi.regulation_id
        )
        self._known = KnownIds.read(api.config_tree())
        purposes = len(self._known.purposes)
        step.text = f"{purposes} purposes in the configuration tree"
        if not purposes:
            step.state = "warning"
            step.text = "the key can't read the configuration tree, so names can't be checked by it"

    def _check_names(self) -> Iterator[Step]:
        step = Step("mappings and Didomi's configuration tree")
        if self._known is None or self._actito is None or not self._known.purposes:
            _leave_out(step, "Didomi's configuration tree is not known")
            yield step
            return
        unknown = self._known.find_unknown_names(self._actito.mappings)
        for one in unknown:
            yield Step(step.name, "mistake", one.to_text(), INVALID_MAPPING.name)
        if not unknown:
            step.text = "each name can stand for something"
            yield step

    def _read_sample(self, step: Step, sample: _Sample) -> None:
        side = self._didomi
        if side is None or self._didomi_session is None:
            _leave_out(step, "Didomi is not known")
            return
        params = {
            "organization_id": side.didomi.organization_id,
            "regulation": side.didomi.regulation_id,
        }
        found = pages(self._didomi_session, _USERS, params)
        sample.users = list(islice((user for page in found for user in page.items), self._most))
        sample.people = [
            str(user["organization_user_id"])
            for user in sample.users
            if user.get("organization_user_id")
        ]
        step.text = f"{len(sample.users)} read; {len(sample.people)} of them name a person"
        if not sample.people:
            step.state = "warning"

    def _check_sample(self, step: Step, sample: _Sample) -> None:
        side = self._actito
        if side is None or not side.mappings or not sample.users:
            _leave_out(step, "no consent user is known")
            return
        watch = MappingWatch(side.mappings)
        resolver = Resolver(side.mappings)
        numbers = {id(mapping): number for number, mapping in enumerate(side.mappings)}
        people = 0
        for user in sample.users:
            try:
                tree = read_record(user).tree
            except ActitoDidomiError:
                continue
            people += 1
            watch.sample([msgspec.json.encode(user)])
            with _quiet():
                found, _ = resolver.resolve(tree)
            for one in found:
                watch.count_value(numbers[id(one.mapping)])
                if isinstance(one.value, bool):
                    person = str(user.get("organization_user_id") or "")
                    sample.choices.setdefault(person, {})[one.mapping.id] = one.value
        watch.note_people(people)
        silent, is_mistake = watch.find_silent(1)
        step.text = f"each mapping met a value, among {people} consent users"
        if silent:
            step.text = f"{' '.join(one.to_text() for one in silent)} ({people} consent users)"
            step.code = MAPPING_SILENT.name
            step.state = "mistake" if is_mistake and people >= _FEWEST else "warning"

    def _check_people(self, step: Step, sample: _Sample) -> None:
        side = self._actito
        people = sorted(set(sample.people))
        if side is None or self._session is None or self._table is None or not people:
            _leave_out(step, "no person of Didomi, or no table, is known")
            return
        table = ProfileTable(self._session, self._table, side.actito.user_unique_key)
        asked = people[:: max(1, len(people) // _LOOKED_UP)][:_LOOKED_UP]
        for person in asked:
            shown = table.look(person)
            if shown is not None:
                sample.profiles[person] = shown.subscriptions or {}
        found = len(sample.profiles)
        step.text = f"{found} of {len(asked)} people of Didomi have a profile"
        if found < _HALF * len(asked):
            is_mistake = not found and len(asked) >= _FEW
            step.state, step.code = "mistake" if is_mistake else "warning", UNMATCHED.name
            step.text += (
                ". Check user_unique_key: it must hold Didomi's organization_user_id; and that "
                "both sides are of one environment."
            )

    def _compare(self, step: Step, sample: _Sample) -> None:
        """Compare choices with what profiles show: nearly all differ where `invert` is wrong."""
        side = self._actito
        if side is None or not sample.profiles:
            _leave_out(step, "no profile of a person of Didomi is known")
            return
        step.text = "agree in more than a quarter of the people looked up, in each subscription"
        for mapping in side.mappings:
            pairs = [
                (choice is not mapping.invert, held[mapping.id])
                for person, held in sample.profiles.items()
                if mapping.type == "subscription"
                and mapping.id in held
                and (choice := sample.choices.get(person, {}).get(mapping.id)) is not None
            ]
            differing = sum(wanted is not held for wanted, held in pairs)
            if len(pairs) < _FEW or differing < _NEARLY_ALL * len(pairs):
                continue
            # Of a table that was never synced it may be so; an inverted mapping is rarely meant.
            step.state = "mistake" if mapping.invert else "warning"
            step.code = TOO_MANY_OPT_INS.name if mapping.invert else ""
            step.text = (
                f"{mapping.id}: of {len(pairs)} people, {differing} hold the opposite of their "
                "choice in Didomi. Look at `invert` of this mapping, or is it the first load?"
            )
            return


def _leave_out(step: Step, why: str) -> None:
    step.state, step.text = "not_checked", why


def _impatient(client: ClientSettings) -> ClientSettings:
    """Return settings on requests with which a check ends soon."""
    return structs.replace(
        client,
        request_timeout=min(client.request_timeout, _TIMEOUT),
        call_timeout=min(client.call_timeout, _TIMEOUT),
        retry_tries=1,
        retry_seconds=0,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Log nothing that a step says itself."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
