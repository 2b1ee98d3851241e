"""What targets of this project share: from records to rejects, STATE and the summary."""

from __future__ import annotations

from actito_didomi.target.base import ConsentTarget
from actito_didomi.target.scope import BY_DELEGATE, Scope
from actito_didomi.target.settings import target_settings
from actito_didomi.target.sink import ConsentSink
from actito_didomi.target.summary import Line, Summary

__all__ = [
    "BY_DELEGATE",
    "ConsentSink",
    "ConsentTarget",
    "Line",
    "Scope",
    "Summary",
    "target_settings",
]
