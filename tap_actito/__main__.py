"""Lets `python -m tap_actito` run the tap."""

from tap_actito.tap import TapActito

TapActito.cli()
