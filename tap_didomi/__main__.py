"""Runs the tap as `python -m tap_didomi`."""

from tap_didomi.tap import TapDidomi

TapDidomi.cli()
