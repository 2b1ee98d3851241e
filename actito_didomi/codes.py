"""The codes of errors, rejects and skips: one table.

Programs go by the name (in reports, rejects and settings), people search for the number. Texts may
change; numbers, names and their meaning never do. The hundred of a number is its group (`GROUPS`):
a new code gets the next free number of its group, and a retired one keeps its own.

The text below each code says what happened and, after a blank line, what to do;
`docs/reference/codes.md` is generated from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Kind = Literal["error", "reject", "skip", "warning"]

GROUPS: Mapping[int, str] = {
    1: "configuration: settings, mappings, accounts, paths",
    2: "input: messages, files, records",
    3: "changes that Actito refuses",
    4: "events that Didomi refuses",
    5: "requests: rights, availability, quota, unexpected responses",
    6: "skips",
    7: "runs",
}
"""Titles of the groups, by the hundred of their numbers."""


@dataclass(frozen=True)
class Code:
    """One kind of error, reject or skip.

    Attributes:
        number: Unique; its hundred is the key of its group.
        name: Unique; snake_case, the same as the constant's name in lower case.
        kind: `error` ends the run; `reject` concerns one record or change, which is kept with its
            reason (a tap, which keeps no rejects, ends with it); `skip` is left out on purpose;
            `warning` is logged, and nothing is left out.
    """

    number: int
    name: str
    kind: Kind

    def __str__(self) -> str:
        """Render number and name, as in `AD301 attribute_refused`."""
        return f"AD{self.number} {self.name}"


# Group AD1xx, configuration; 117 is kept for `snapshot_in_use`, which is gone

INVALID_SETTING = Code(101, "invalid_setting", "error")
"""A setting is missing, has the wrong type or value, or doesn't fit another setting.

The message names the setting and what is expected. See the settings reference.
"""
INVALID_MAPPING = Code(102, "invalid_mapping", "error")
"""An entry of `mappings` can't be read, can't be used in this direction, or repeats another.

Correct the entry that the message names, or remove it.
"""
AMBIGUOUS_MAPPING = Code(103, "ambiguous_mapping", "error")
"""The `value` of a mapping can stand for several choices.

Add the `path` that is meant to this mapping; the message lists the candidates.
"""
UNKNOWN_FIELD = Code(104, "unknown_field", "error")
"""A mapping names a subscription or attribute that the table doesn't have.

Compare the `id` with the names in the message; they are case-sensitive.
"""
UNSUITABLE_FIELD = Code(105, "unsuitable_field", "error")
"""A mapping names an attribute that can't be used: it is the key, a list, kept by Actito, or, in
the reverse sync, not a boolean.

Map another attribute, or remove the mapping.
"""
UNKNOWN_ENTITY = Code(106, "unknown_entity", "error")
"""Actito has no entity of this name that the key may read.

Set `entity_id` to the name of an entity of this licence, or extend the rights of the key.
"""
UNKNOWN_TABLE = Code(107, "unknown_table", "error")
"""The entity has no profile table of this name or id.

Set `table_name` to one of the tables that the message lists.
"""
AMBIGUOUS_TABLE = Code(108, "ambiguous_table", "error")
"""The key sees no profile table or several, and the settings don't say which one is meant.

Set `entity_id` and `table_name`.
"""
UNSUITABLE_KEY = Code(109, "unsuitable_key", "error")
"""The attribute that people are matched by doesn't exist or isn't unique.

Set `user_unique_key` to one of the unique attributes that the message lists.
"""
UNSUITABLE_ETL = Code(110, "unsuitable_etl", "error")
"""The predefined ETL doesn't exist, or its mode is unknown or contradicts `upsert_mode`.

Check `bulk_etl_id` and `bulk_etl_mode` against the ETL in Actito.
"""
UNUSABLE_PATH = Code(111, "unusable_path", "error")
"""A file or folder that a setting names, or that the plugin needs, can't be used.

Check the address, the rights, and that the driver of its file system is installed.
"""
UNUSABLE_DATABASE = Code(112, "unusable_database", "error")
"""The database that a setting names can't be opened, or fails.

Check the address and the rights, and that its driver is installed; then run again.
"""
UNKNOWN_EXPORT = Code(113, "unknown_export", "error")
"""There is no batch export with this id.

Set `export_ids` to ids that the message lists.
"""
UNEXPECTED_COLUMNS = Code(114, "unexpected_columns", "error")
"""A file of profile changes has other columns or another separator than expected.

Set `export_columns`, or change the export in Actito.
"""

MISSING_PACKAGE = Code(115, "missing_package", "error")
"""A Python package that a setting needs is not installed.

Install the extra or package that the message names.
"""
NOTHING_SELECTED = Code(116, "nothing_selected", "error")
"""The catalog selects no stream that the tap has, so nothing would be read.

Select one of the streams that the message lists, or run without a catalog.
"""
LEDGER_MISSING = Code(118, "ledger_missing", "error")
"""The ledger that STATE names, or that `require_ledger` demands, isn't at `ledger_url`.

Restore it. If it is lost for good, set `on_lost_ledger: baseline` for one run of each direction,
and `baseline: opt_out` for as long as the new ledger is used.
"""
LEDGER_TOO_NEW = Code(119, "ledger_too_new", "error")
"""The ledger was written by a later release.

Use that release, or a later one, in all plugins.
"""
AMBIGUOUS_SCOPE = Code(120, "ambiguous_scope", "error")
"""The ledger belongs to another pair of Didomi organisation and Actito table, or to several.

Correct the setting that the message names, set `ledger_scope`, or use another `ledger_url`.
"""

MAPPING_SILENT = Code(121, "mapping_silent", "warning")
"""No record held a value for a mapping, since the mappings were changed.

Compare its `value` with the names in the message. Records that were read before it is corrected
must be read again. If it may be so, add `"may_be_silent": true` to the mapping.
"""
MAPPING_MISSED = Code(122, "mapping_missed", "error")
"""Mappings are probably wrong: none met a value, or one is nearly the name of another choice.

Correct the `value` that the message names. Everything else is written, and STATE stays, so that the
next run reads the same records with the corrected mapping. Exit status 5.
"""
TOO_MANY_INVERTED = Code(123, "too_many_inverted", "error")
"""More than half of the mappings are inverted, which is rarely meant.

Remove `invert`, which would turn opt-outs into opt-ins, or set `allow_invert` if it is meant.
"""
REGULATION_MISSED = Code(124, "regulation_missed", "error")
"""All records belong to another regulation than the setting `regulation`; exit status 5.

Set `regulation` to the one that the message names. STATE stays, so the records are read again.
"""
MANDATORY_UNMAPPED = Code(126, "mandatory_unmapped", "warning")
"""With `upsert_mode`, new profiles need attributes that no mapping names.

Map them, or make sure that the records hold metadata of the same name.
"""

SUBSCRIPTION_NEW = Code(125, "subscription_new", "warning")
"""The table has a subscription that it didn't have in earlier runs, and that no mapping names.

Add a mapping if people choose it in Didomi; it is never written otherwise. This is logged once.
"""

# Group AD2xx, input

INVALID_MESSAGE = Code(201, "invalid_message", "error")
"""A line of the input is not a valid Singer message.

Look for what else writes to the tap's standard output, and whether the tap ended early.
"""
SCHEMA_MISSING = Code(202, "schema_missing", "error")
"""A record came before the SCHEMA message of its stream.

Repair the tap.
"""
KEY_MISSING = Code(203, "key_missing", "reject")
"""A record lacks the key properties of its stream.

Repair the tap, or its catalog.
"""
UNREADABLE_BATCH = Code(204, "unreadable_batch", "error")
"""A file of a BATCH message can't be opened or decoded.

Make the file reachable and complete; for its format see the tap's `batch_config`.
"""
BATCH_UNSUPPORTED = Code(205, "batch_unsupported", "error")
"""This target doesn't read BATCH messages, or `batch_root` is not set.

Set `batch_root` of target-actito, or remove `batch_config` from the tap's settings.
"""
DAMAGED_FILE = Code(206, "damaged_file", "error")
"""A file is empty, truncated, corrupt or of another format.

Fetch or make the file again. Nothing after the damage was acknowledged.
"""
INVALID_LINE = Code(207, "invalid_line", "error")
"""A line of a file can't be read.

Repair the file, or set `on_bad_line` to `skip` to continue without this line. With a ledger
`actito-didomi rejects show` prints it; while it may hold an opt-out, the target's exit status is 3.
"""
SCHEMA_MISMATCH = Code(208, "schema_mismatch", "reject")
"""A record doesn't fit the JSON schema of its stream.

Repair the tap, or set `validate_records` to false.
"""
INVALID_RECORD = Code(209, "invalid_record", "reject")
"""A consent record, or a part of it that is needed, can't be read.

Correct the record at its source and send it again.
"""
INVALID_VALUE = Code(210, "invalid_value", "reject")
"""A choice or attribute can't be converted to the type of its field.

Correct the value at its source, or the mapping.
"""
AMBIGUOUS_VALUE = Code(211, "ambiguous_value", "reject")
"""A mapping fits several values of one record.

Add the `path` that is meant to this mapping.
"""
INCOMPLETE_EXPORT = Code(212, "incomplete_export", "error")
"""A finished partition of a batch export holds an empty file, files of another kind, or none.

Copy the partition again, or ask Didomi for it. The bookmark stays before it until then; everything
else is read.
"""
MISSING_DAY = Code(213, "missing_day", "warning")
"""A batch export has no partition of a day between its first and its last one.

Ask Didomi for it. It is read if it comes within `late_days`; the bookmark stays before it until
then.
"""
PLACEHOLDER_ID = Code(214, "placeholder_id", "reject")
"""`organization_user_id` is what programs write where they have no id, such as undefined or null.

Find what sends these events (a website or app that calls Didomi before the person is known), and
correct it. Whose choices these are can't be found out.
"""

UNREADABLE_LINE = Code(216, "unreadable_line", "reject")
"""A line of the input can't be decoded at all, so it is kept as it came, and counts as an opt-out.

Find out what broke it (`actito-didomi rejects show`), have its records sent again, and dismiss it.
"""

ODD_BOOLEAN = Code(217, "odd_boolean", "warning")
"""A choice is not a boolean, but a text or number such as "false", 0 or "no".

Correct it at its source. Until then such opt-outs are carried out; what looks like an opt-in is
rejected.
"""

# Group AD3xx, Actito refuses; 301 is kept for `attribute_refused`

CHANGE_REFUSED = Code(302, "change_refused", "reject")
"""Actito refuses a change of one profile, singly or as a row of an import.

Read Actito's response in the reject, correct the values or the table, and send it again.
"""
PROFILE_CREATED = Code(303, "profile_created", "error")
"""Actito created a profile where an existing one was to be changed.

Remove the new profile without a key attribute, and report it: this API isn't as expected.
"""

# Group AD4xx, Didomi refuses

EVENT_REFUSED = Code(401, "event_refused", "reject")
"""Didomi refuses a consent event.

Read Didomi's response in the reject, correct the mapping or the purposes in Didomi, and send it
again.
"""

UNKNOWN_ID = Code(402, "unknown_id", "reject")
"""Didomi's configuration tree has no purpose, preference or value of this id; nothing was posted.

Correct the mapping of the tap, or add it in Didomi; or set `unknown_ids: send`. What the choice is
owed stays owed.
"""
CHANNEL_UNSEEN = Code(403, "channel_unseen", "warning")
"""A channel is posted that Didomi holds for nobody seen in this run.

If it is misspelt, correct the mapping of the tap. Channels stand in no configuration tree, so the
event is read back instead.
"""

# Group AD5xx, requests

CREDENTIALS_REFUSED = Code(501, "credentials_refused", "error")
"""The API refuses the key.

Check the key and its secret, and that they belong to this environment.
"""
REQUEST_REFUSED = Code(502, "request_refused", "error")
"""The API refuses a request for good.

The message names the request and the status. Check the rights of the key and the settings.
"""
ACCESS_REFUSED = Code(503, "access_refused", "error")
"""The API refuses requests in a way that concerns all people, not one.

Check the rights of the key and the settings that name the account; nothing is lost.
"""
API_UNAVAILABLE = Code(504, "api_unavailable", "error")
"""The API returned no usable response, after all attempts.

Nothing is lost: run again when the API is back.
"""
UNEXPECTED_RESPONSE = Code(505, "unexpected_response", "error")
"""A response of the API has another form than expected. It shows nothing, and confirms nothing.

Check `api_url` and the rights of the key. If Actito has other names, set `facts_path`.
"""
IMPORT_QUOTA_EXCEEDED = Code(506, "import_quota_exceeded", "error")
"""No bulk import is left today, and single requests would take too long.

The next run writes what is deferred. Raise `max_single_minutes` to write it now.
"""
IMPORT_UNFINISHED = Code(507, "import_unfinished", "error")
"""An import of an earlier run hasn't ended, and could overwrite newer choices.

Look the import up in Actito, stop it if it hangs, and run again.
"""
CLOCK_SKEW = Code(508, "clock_skew", "warning")
"""The clock of this machine differs from that of the API by more than a minute.

Synchronise the clock. Until then the API's clock counts.
"""

UNIFORM_REFUSAL = Code(509, "uniform_refusal", "error")
"""The API refuses the changes of many people alike: this concerns the configuration, not people.

Check the rights of the key, the settings that name the account, and the mappings. Nobody is
rejected; the next run attempts all again.
"""

# Group AD6xx, skips

GUEST = Code(601, "guest", "skip")
"""The record names no person: it has no `organization_user_id`.

Nothing; guests have no profile.
"""
NOT_CONFIRMED = Code(602, "not_confirmed", "skip")
"""The status of the event isn't `confirmed`, such as one that waits for approval.

Nothing; the event counts when it is confirmed.
"""
OTHER_REGULATION = Code(603, "other_regulation", "skip")
"""The record belongs to another regulation than the setting `regulation`.

If all records are skipped, check `regulation`.
"""
DELEGATE = Code(604, "delegate", "skip")
"""The choice was made by a delegate of `skip_delegates`: it came from the system written to.

Nothing; that system holds it already.
"""
NO_CONSENT = Code(605, "no_consent", "skip")
"""The record belongs to a stream without consent records.

Deselect the stream in the tap.
"""
NOT_AN_EVENT = Code(606, "not_an_event", "skip")
"""The record is the whole status of a person, not an event.

Select the stream `consent_events` in the tap.
"""
UNMATCHED = Code(607, "unmatched", "skip")
"""The person is unknown to the system written to, and the settings don't allow to create them.
It counts in `unmatched` of the report (people), not in `skipped` (records).

If many people are unmatched, check `user_unique_key`.
"""

# Group AD7xx, runs

TOO_MANY_REJECTS = Code(701, "too_many_rejects", "error")
"""More was rejected than `max_rejects` allows, so the configuration is probably wrong.

Correct what the last reject names and run again, or raise `max_rejects`.
"""
OPT_OUTS_REJECTED = Code(702, "opt_outs_rejected", "error")
"""Everything is written except opt-outs that were rejected; exit status 3.

Resolve these rejects before the next campaign.
"""
STOPPED = Code(703, "stopped", "error")
"""The process was asked to stop; exit status 143 or 130.

Nothing is lost: run again.
"""
OUTPUT_CLOSED = Code(704, "output_closed", "error")
"""The downstream process has closed its input.

Look why it ended, and run again.
"""
UNEXPECTED_ERROR = Code(705, "unexpected_error", "error")
"""An error that the plugin doesn't know; its text is withheld, since it may hold personal data.

Report it with the lines of the log that name files and functions.
"""
DIRECTION_IN_USE = Code(706, "direction_in_use", "error")
"""Another run of the same direction is still writing.

Wait until it has ended, or set `lease_wait`; schedule one job per direction.
"""

OPT_OUTS_OWED = Code(707, "opt_outs_owed", "error")
"""Opt-outs are owed: the ledger holds them, and they could not be written yet.

They are tried again at each run. `actito-didomi rejects list --opt-outs` shows which they are and
why; resolve the reason before the next campaign.
"""
CHANGES_DEFERRED = Code(708, "changes_deferred", "error")
"""Opt-ins wait for a decision of yours; all opt-outs are written.

Set `baseline`, which decides about opt-outs in Actito of unknown age; the next run writes what
waits.
"""
NO_LEDGER = Code(709, "no_ledger", "error")
"""`ledger_url` is `none`: the plugin works without memory, and says what it can't promise.

Use a ledger, unless losing these promises is what you want.
"""
TOO_MANY_OPT_INS = Code(710, "too_many_opt_ins", "error")
"""More people would be opted in than `max_opt_ins` or `max_opt_in_pct` allows; exit status 4.

Opt-outs are written, all else is owed. Look for a swapped `invert` or a wrong mapping. If the
opt-ins are right, run once with `force_guards: true`.
"""
TOO_MANY_CHANGES = Code(711, "too_many_changes", "error")
"""More people would be changed than `max_change_pct` allows; exit status 4.

Opt-outs are written, all else is owed. If the changes are right, run once with
`force_guards: true`.
"""
TOO_MANY_CREATES = Code(712, "too_many_creates", "error")
"""More profiles or users would be created than `max_creates` allows; exit status 4.

Opt-outs are written, all else is owed. If all are to be created, run once with
`force_guards: true`.
"""
TOO_MANY_UNMATCHED = Code(713, "too_many_unmatched", "error")
"""More people are unknown than `max_unmatched_pct` allows; exit status 4, or 3 with opt-outs.

Check the attribute that people are matched by, and the environment. The people are owed and tried
again at each run. If that is right, raise `max_unmatched_pct`.
"""
INPUT_ENDED = Code(714, "input_ended", "warning")
"""The input of a target ended without a STATE message after its last record.

A tap ends with STATE, so it has probably failed. Look at its log and exit status, and run both
again. What came is written.
"""

TABLE: tuple[Code, ...] = tuple(
    sorted(
        (value for value in list(globals().values()) if isinstance(value, Code)),
        key=lambda code: code.number,
    )
)
"""All codes, by number."""
