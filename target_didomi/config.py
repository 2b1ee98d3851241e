"""Settings of target-didomi."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from actito_didomi.consent.config import LedgerSettings
from actito_didomi.didomi.config import (
    REQUIRED,
    DidomiSettings,
    find_organization_problems,
    missing_settings,
)
from actito_didomi.http import ClientSettings
from actito_didomi.plugin.config import RejectsPath, SkipDelegates, TargetSettings
from actito_didomi.plugin.guards import GuardSettings
from actito_didomi.settings import setting

GROUPS = [list(REQUIRED)]
"""Settings that are complete together."""


class _TargetSettings(TargetSettings, frozen=True, kw_only=True):
    rejects_path: RejectsPath = "didomi-rejects.jsonl"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of target-didomi."""

    didomi: DidomiSettings
    create_users: Annotated[
        bool,
        setting(
            "Create unknown users",
            "Whether to create a user for a person that Didomi does not know. If not, such people "
            "are counted as unmatched and nothing is created. An erased person is unknown as well, "
            "and would be created again.",
        ),
    ] = False
    respect_approval: Annotated[
        bool,
        setting(
            "Respect approval",
            "Whether opt-ins wait for approval (`pending_approval`) instead of being sent as "
            "confirmed. Set it where Didomi asks people to confirm their choices. Opt-outs always "
            "count at once.",
        ),
    ] = False
    unknown_ids: Annotated[
        Literal["refuse", "send"],
        setting(
            "Unknown ids",
            "What becomes of a choice whose purpose, preference or value Didomi's configuration "
            "tree does not have: `refuse` rejects it before anything is posted, all else of the "
            "person is posted; `send` posts it. Ids that Didomi holds of people seen in the run "
            "are known as well.",
            advanced=True,
        ),
    ] = "refuse"
    delegate: Annotated[
        str,
        setting(
            "Delegate",
            "Id of the delegate of events that name none. It must be one of `skip_delegates`.",
            advanced=True,
        ),
    ] = "actito"
    skip_delegates: SkipDelegates = ("actito",)
    max_concurrency: Annotated[
        int,
        setting(
            "Maximum concurrent requests",
            "Maximum number of requests at the same time.",
            advanced=True,
            ge=1,
            le=50,
        ),
    ] = 8
    client: ClientSettings
    ledger: LedgerSettings
    guards: GuardSettings
    target: _TargetSettings


def find_problems(settings: Settings) -> list[str]:
    """Check settings for what a JSON schema can't say; return one line per problem."""
    problems = [
        f"{name} is missing. Set {name}, or TARGET_DIDOMI_{name.upper()} in the environment."
        for name in missing_settings(settings.didomi)
    ]
    if settings.target.dry_run and not settings.ledger.has_ledger:
        problems.append("dry_run needs a ledger: set ledger_url; a dry run works on a copy of it.")
    return problems + find_organization_problems(settings.didomi, settings.client)
