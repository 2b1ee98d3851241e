"""What the plugins share: the two APIs, mappings, Singer plumbing and the sandbox."""
