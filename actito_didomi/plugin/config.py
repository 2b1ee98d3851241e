"""Settings that all targets have, and their typed form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from singer_sdk import typing as th

if TYPE_CHECKING:
    from collections.abc import Mapping


def target_settings(rejects: str) -> tuple[th.Property[Any], ...]:
    """Give the settings on waiting, rejects, report and shutdown.

    Args:
        rejects: Name of the rejects file if none is set.
    """
    return (
        th.Property(
            "max_buffered_people",
            th.IntegerType(minimum=1),
            default=200_000,
            title="People in memory",
            description="Changes of so many people are gathered before they are written.",
        ),
        th.Property(
            "flush_interval",
            th.NumberType(exclusive_minimum=0),
            default=300,
            title="Longest wait (s)",
            description="Seconds after which gathered changes are written, also when the tap is "
            "quiet.",
        ),
        th.Property(
            "rejects_path",
            th.StringType,
            default=rejects,
            title="Rejects file",
            description="JSON Lines file for what could not be written, with the reason. It holds "
            "personal data; only its owner can read it.",
        ),
        th.Property(
            "max_rejects",
            th.IntegerType(minimum=0),
            default=1000,
            title="Most rejects",
            description="More rejects than this in one run stop it.",
        ),
        th.Property(
            "report_path",
            th.StringType,
            title="Report file",
            description="Where to write the summary of the run as JSON.",
        ),
        th.Property(
            "shutdown_grace",
            th.NumberType(exclusive_minimum=0),
            default=30,
            title="Shutdown grace (s)",
            description="Seconds from SIGTERM or SIGINT to the end of the process, at the latest.",
        ),
    )


@dataclass(frozen=True)
class TargetSettings:
    """The settings, checked and typed. Units as in their descriptions."""

    max_buffered_people: int
    flush_interval: float
    rejects_path: str
    max_rejects: int
    report_path: str | None
    shutdown_grace: float


def read_target_settings(config: Mapping[str, Any]) -> TargetSettings:
    """Turn checked settings into typed ones."""
    return TargetSettings(
        max_buffered_people=config["max_buffered_people"],
        flush_interval=float(config["flush_interval"]),
        rejects_path=config["rejects_path"],
        max_rejects=config["max_rejects"],
        report_path=config.get("report_path"),
        shutdown_grace=float(config["shutdown_grace"]),
    )
