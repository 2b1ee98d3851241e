"""Actito and Didomi on this machine: the same requests and limits, on SQLite.

It serves tests and demonstrations. What the vendors do not document is a switch in
`SandboxOptions`, so that a plugin can be tried against each possible behaviour.
"""

from actito_didomi.sandbox.options import SandboxOptions

__all__ = ["SandboxOptions"]
