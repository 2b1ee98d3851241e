"""What a look learns of a profile that the last complete look did not show."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from actito_didomi.actito.listing import Profile, ProfilePage
from actito_didomi.actito.table import TableStructure
from actito_didomi.consent.config import LedgerSettings
from actito_didomi.consent.fields import ChoiceField
from actito_didomi.consent.ledger import Ledger
from actito_didomi.consent.looks import Look
from actito_didomi.consent.schema import LedgerScope
from actito_didomi.plugin.looks import LookLearner, ProfileReader
from actito_didomi.runtime import Runtime

PATH = ("consents", "channels", "email", "enabled")
FIELD = ChoiceField("subscription", "News", PATH, "a:subscription:News", False, True)
NOW = datetime(2026, 11, 25, 10, tzinfo=timezone.utc)
LAST = int(NOW.timestamp() - 600) * 1_000_000


@pytest.mark.parametrize(
    ("profile_id", "highest_id", "created", "is_new"),
    [
        (6, 20, None, False),  # pages had shifted: it was there, and not shown
        (21, 20, None, True),
        (6, None, None, False),  # nothing shows that it is new
        (6, 20, "2026-11-25 10:55:00", False),
        (21, 20, "2026-11-25 10:55:00", True),
        (21, 20, "2026-11-01 10:55:00", False),
    ],
)
def test_an_opt_in_counts_only_of_a_profile_that_is_new(
    tmp_path: Path, profile_id: int, highest_id: int | None, created: str | None, *, is_new: bool
) -> None:
    """Else it would overrule an opt-out in Didomi, though nobody knows since when it is on."""
    settings = LedgerSettings(ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger = Ledger.open(settings, LedgerScope(), Runtime())
    reader = ProfileReader(
        TableStructure("e", "1", "t", {}, ("News",)),
        "customerId",
        "exact",
        ZoneInfo("Europe/Brussels"),
        [FIELD],
    )
    learner = LookLearner(ledger, reader, "", [FIELD])
    attributes = {"customerId": "ann", **({"creationMoment": created} if created else {})}
    page = ProfilePage([Profile(profile_id, attributes, {"News": True}, {})], NOW, NOW)
    learner.learn_page(page, Look(LAST, LAST + 1, learner.look_names, 20, highest_id))
    acts = ledger.read(["ann"])["ann"].entries[PATH].acts
    assert bool(acts) is is_new
    ledger.close()
