"""Runs the tap as `python -m tap_actito`."""

from tap_actito.tap import TapActito

TapActito.cli()
