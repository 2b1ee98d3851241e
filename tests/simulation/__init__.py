"""The real plugins against the sandbox, in one process, with a clock, network and disk of our own.

Everything follows from one seed: what people do and when, which request is lost, which process is
killed at which step. `python -m simulation SEED` shows one story.
"""
