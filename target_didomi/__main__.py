"""Lets `python -m target_didomi` run the target."""

from target_didomi.target import TargetDidomi

TargetDidomi.cli()
