"""Actito and Didomi on this machine: the same calls and limits, on SQLite.

For tests, and for people who try things out. What nobody outside the vendors knows is a switch in
`SandboxOptions`, so that a plugin can be tried against each possible answer.
"""

from actito_didomi.sandbox.options import SandboxOptions

__all__ = ["SandboxOptions"]
