"""Lets `python -m target_actito` run the target."""

from target_actito.target import TargetActito

TargetActito.cli()
