"""Lets `python -m tap_didomi` run the tap."""

from tap_didomi.tap import TapDidomi

TapDidomi.cli()
