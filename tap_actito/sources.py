"""The two sources of changes: export files, and comparing the table with a snapshot."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import fsspec

from actito_didomi import codes
from actito_didomi.actito import ConversionError, ValueType, convert
from actito_didomi.actito.changes import ChangeFile, SubscriptionChange
from actito_didomi.actito.listing import list_profiles
from actito_didomi.consent.ledger import Ledger, Note, Place
from actito_didomi.errors import BadInputError, SettingsError
from tap_actito.config import DEFAULT_SNAPSHOT
from tap_actito.snapshot import Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from actito_didomi.actito.listing import Profile, ProfilePage
    from tap_actito.snapshot import Numbered, SnapshotRow, States
    from tap_actito.streams import ChangeStream
    from tap_actito.tap import TapActito

_FILE = re.compile(r"\.(csv|csv\.gz|gz|zip)$", re.IGNORECASE)
_PROGRESS_INTERVAL = 30.0
_UPDATE_OVERLAP = timedelta(minutes=5)
_NOTED_AT_ONCE = 1000
_CLOCKS = timedelta(minutes=1)
"""By how much Actito's clock and ours may differ."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""When a profile may have changed that was never looked at before."""
_ATTRIBUTE = "@"
"""Marks attributes among states; no subscription begins so."""


# Exports


def read_exports(stream: ChangeStream) -> Iterator[Iterable[SubscriptionChange]]:
    """Give the changes of each file that is new, in order of the names.

    When the next one is asked for, the one before has been read to its end: the state says so.

    Raises:
        SettingsError: The folder isn't there, or a file's columns aren't those expected.
        BadInputError: A file or line is broken.
    """
    fs, root = _open_folder(stream)
    done: list[str] = stream.stream_state.setdefault("files", [])
    found = sorted(name for name in _names(fs, root) if _FILE.search(name))
    # Names of files that are gone need not be remembered.
    done[:] = [name for name in done if name in found]
    new = [name for name in found if name not in set(done)]
    stream.logger.info("Exports: %d file(s), %d of them new.", len(found), len(new))
    if stream.attributes_wanted:
        stream.logger.info(
            "Changes of attributes (%s) don't stand in exports of profile changes; with "
            "change_source api they are seen.",
            ", ".join(stream.attributes_wanted),
        )
    url = stream.config.get("snapshot_url")
    ledger = Ledger(url, stream.actito.account, stream.actito.runtime) if url else None
    try:
        for name in new:
            path = f"{root}/{name}"
            if not _settled(fs, path, stream):
                stream.logger.info(
                    "Exports: %s may still be on its way. This run ends before it; the next one "
                    "goes on here.",
                    name,
                )
                return
            changes = _read_file(stream, fs, path, name)
            # Where target-actito takes no notes it reads none either.
            if ledger is not None and ledger.has("pipeline"):
                changes = _noted(stream.actito, ledger, changes)
            yield changes
            done.append(name)
            stream.emit_state()
    finally:
        if ledger is not None:
            ledger.close()


def _noted(
    tap: TapActito, ledger: Ledger, changes: Iterator[SubscriptionChange]
) -> Iterator[SubscriptionChange]:
    """Take note of people's opt-outs before they are given.

    What target-actito wrote itself is left out. Actito's timestamps are whole seconds of its own
    clock.
    """
    while part := list(islice(changes, _NOTED_AT_ONCE)):
        opt_outs = {
            Place(c.person, c.kind, c.subscription): c
            for c in sorted(part, key=lambda change: change.changed_at)
            if c.person is not None
            and (way := tap.reverse_mappings.get((c.kind, c.subscription))) is not None
            and not way.choice(c.subscribed)
        }
        written = ledger.read("pipeline", {place.person for place in opt_outs})
        own = {
            place: Note(change.subscribed, change.changed_at)
            for place, change in opt_outs.items()
            if not _is_written(change, written.get(place))
        }
        ledger.note("person", own)
        yield from part


def _is_written(change: SubscriptionChange, note: Note | None) -> bool:
    if note is None or note.value is not change.subscribed:
        return False
    began = note.after or note.at
    return began - _CLOCKS <= change.changed_at <= note.at + _CLOCKS


def _open_folder(stream: ChangeStream) -> tuple[Any, str]:
    url = stream.config["export_root"]
    try:
        fs, root = fsspec.url_to_fs(url, **(stream.config.get("storage_options") or {}))
    except (ImportError, ValueError) as error:
        raise SettingsError(
            codes.UNUSABLE_PATH,
            f"export_root: this kind of address can't be read ({type(error).__name__}). For s3:// "
            "install actito-didomi[s3], for gs:// actito-didomi[gcs], for sftp:// paramiko.",
        ) from None
    return fs, str(root).rstrip("/")


def _names(fs: Any, root: str) -> list[str]:
    fs.invalidate_cache()
    try:
        found = fs.ls(root, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        raise SettingsError(
            codes.UNUSABLE_PATH, f"export_root: there is no folder at {root}."
        ) from None
    return [f["name"].rsplit("/", 1)[-1] for f in found if f["type"] == "file"]


def _settled(fs: Any, path: str, stream: ChangeStream) -> bool:
    """Tell whether a file isn't being written any more."""
    grace = float(stream.config["export_grace"])
    if not grace:
        return True
    try:
        modified = fs.modified(path)
    except NotImplementedError:
        size = fs.size(path)
        stream.actito.shutdown.requested.wait(grace)
        stream.actito.shutdown.check()
        fs.invalidate_cache()
        return bool(size == fs.size(path))
    if modified.tzinfo is None:
        modified = modified.replace(tzinfo=timezone.utc)
    return bool(datetime.now(timezone.utc) - modified >= timedelta(seconds=grace))


def _read_file(stream: ChangeStream, fs: Any, path: str, name: str) -> Iterator[SubscriptionChange]:
    tap = stream.actito
    file = ChangeFile(
        name,
        tap.config["user_unique_key"],
        {k: v for k, v in (tap.config.get("export_columns") or {}).items() if v},
        tap.structure.subscriptions,
        tap.zone,
    )
    count, last = 0, time.monotonic()
    with fs.open(path, "rb") as raw:
        for change in file.read(raw):
            tap.shutdown.check()
            if isinstance(change, BadInputError):
                if tap.config["on_bad_line"] != "skip":
                    raise BadInputError(
                        codes.INVALID_LINE,
                        f"{change.message} Set on_bad_line to `skip` to go on without it; it is "
                        "counted then.",
                    )
                tap.skipped_lines += 1
                stream.logger.error("Skipped: %s", change)
                continue
            count += 1
            yield change
            if time.monotonic() - last > _PROGRESS_INTERVAL:
                last = time.monotonic()
                stream.logger.info("Exports: %s: %d changes read.", name, count)
    stream.logger.info(
        "Exports: %s: done, %d changes, %d lines about something else.",
        name,
        count,
        file.other_lines,
    )


# The API


def read_api(stream: ChangeStream) -> Iterator[Iterable[SubscriptionChange]]:
    """Give the changes between the snapshot and the table, page by page.

    First come those that were found before and that no STATE has passed. When the next page is
    asked for, the one before has been emitted: the state says so.
    """
    tap = stream.actito
    url = tap.config.get("snapshot_url") or DEFAULT_SNAPSHOT
    snapshot = Snapshot(url, "/".join([*tap.account, stream.name]), tap.runtime)
    ledger = Ledger(url, tap.account, tap.runtime)
    state = stream.stream_state
    if state.get("snapshot") != snapshot.id:
        state.pop("emitted", None)
        state["snapshot"] = snapshot.id
    try:
        snapshot.forget(int(state.get("emitted") or 0))
        while pending := snapshot.pending(int(state.get("emitted") or 0)):
            stream.logger.info("Found before and not settled: %d changes.", len(pending))
            yield _emit(stream, pending)
            stream.emit_state()
        first = not snapshot.complete
        emits_new = not first or tap.config["emit_initial"]
        since = None
        if tap.config["trust_update_moment"] and snapshot.complete:
            since = snapshot.newest_update
        newest, read, last = since, 0, time.monotonic()

        for page in _pages(stream, since):
            tap.shutdown.check()
            compare = partial(_compare, stream, ledger, page, first=first, emits_new=emits_new)
            found = snapshot.take(page, compare)
            if found:
                yield _emit(stream, found)
                stream.emit_state()
            timestamps = [str(p.attributes.get("updateMoment") or "") for p in page.profiles]
            newest = max([newest or "", *timestamps])
            read += len(page.profiles)
            if time.monotonic() - last > _PROGRESS_INTERVAL:
                last = time.monotonic()
                stream.logger.info("Changes: %d profiles compared.", read)
        snapshot.finish(_earlier(newest) if newest else None)
        if first and not emits_new:
            stream.logger.info(
                "Changes: the snapshot of %d profiles is made; the next run gives what changed "
                "since.",
                read,
            )
        stream.emit_state()
    finally:
        snapshot.close()
        ledger.close()


def _compare(
    stream: ChangeStream,
    ledger: Ledger,
    page: ProfilePage,
    looks: list[SnapshotRow],
    *,
    first: bool,
    emits_new: bool,
) -> tuple[list[States], list[SubscriptionChange]]:
    """Give the states of profiles, and what changed; take note of what people changed themselves.

    What target-actito wrote since the last look is no change of the person's: it had happened by
    the end of the writing. If something else holds now, the person changed it after that, also
    where it is what held before.
    """
    tap = stream.actito
    looked = [look.last_look or _LONG_AGO for look in looks]
    people = {person for look in looks if (person := _person(tap, look.profile))}
    written = ledger.read("pipeline", people, since=min(looked, default=_LONG_AGO))
    all_states: list[States] = []
    changes: list[SubscriptionChange] = []
    own: dict[Place, Note] = {}
    for look, last_look in zip(looks, looked, strict=True):
        states, before = _states(stream, look.profile), look.before
        all_states.append(states)
        if before is None and not emits_new:
            continue
        for name, state in states.items():
            place = _place(tap, look.profile, name)
            note = written.get(place)
            if note is not None and note.at < last_look:
                note = None
            if before is None:
                changed = state or first
            else:
                # A subscription that is new in the table begins as not subscribed.
                changed = before.get(name) is not state and (state or name in before)
            window, source = (last_look, page.read_at), "api"
            if note is not None and note.value is state:
                window, source = (last_look, min(note.at, page.read_at)), "target-actito"
            elif note is not None and note.at <= page.asked_at:
                changed, window = True, (note.after or last_look, page.read_at)
            if changed:
                change = _change(tap, look.profile, name, state, window=window, source=source)
                changes.append(change)
                if change.person is not None and source == "api":
                    own[place] = Note(state, change.changed_at, change.changed_after)
    ledger.note("person", own)
    return all_states, changes


def _pages(stream: ChangeStream, since: str | None) -> Iterator[ProfilePage]:
    """Give the profiles updated since, or all of them.

    The filter is a guess. The newest profile of the last run must pass it; where nothing does,
    Actito doesn't understand it.
    """
    tap = stream.actito
    size, structure = tap.config["page_size"], tap.structure
    if since is not None:
        empty = True
        for page in list_profiles(tap.session, structure, size, since):
            empty = False
            yield page
        if not empty:
            return
        stream.logger.warning(
            "trust_update_moment: Actito doesn't seem to understand the filter on updateMoment; "
            "the whole table is read."
        )
    yield from list_profiles(tap.session, structure, size)


def _emit(stream: ChangeStream, numbered: list[Numbered]) -> Iterator[SubscriptionChange]:
    for number, change in numbered:
        yield change
        stream.stream_state["emitted"] = number


def _states(stream: ChangeStream, profile: Profile) -> States:
    states: States = dict(profile.subscriptions)
    for name in stream.attributes_wanted:
        value = profile.attributes.get(name)
        if value is not None:
            try:
                states[_ATTRIBUTE + name] = bool(
                    convert(value, ValueType.BOOLEAN, stream.actito.zone)
                )
            except ConversionError:
                continue
    return states


def _change(
    tap: TapActito,
    profile: Profile,
    name: str,
    state: bool,
    *,
    window: tuple[datetime, datetime],
    source: str,
) -> SubscriptionChange:
    return SubscriptionChange(
        profile_id=profile.id,
        person=_person(tap, profile),
        subscription=name.removeprefix(_ATTRIBUTE),
        subscribed=state,
        changed_at=window[1],
        changed_after=window[0],
        source=source,
        kind=_kind(name),
    )


def _person(tap: TapActito, profile: Profile) -> str | None:
    person = profile.attributes.get(tap.config["user_unique_key"])
    return None if person is None or person == "" else str(person)


def _kind(name: str) -> Literal["subscription", "attribute"]:
    return "attribute" if name.startswith(_ATTRIBUTE) else "subscription"


def _place(tap: TapActito, profile: Profile, name: str) -> Place:
    return Place(_person(tap, profile) or "", _kind(name), name.removeprefix(_ATTRIBUTE))


def _earlier(timestamp: str) -> str:
    """Give a timestamp in Actito's form some minutes earlier, for what changes while reading."""
    try:
        read = datetime.fromisoformat(timestamp)
    except ValueError:
        return timestamp
    return (read - _UPDATE_OVERLAP).strftime("%Y-%m-%d %H:%M:%S")
