"""Singer target for Actito: consent records become subscriptions and attributes of profiles."""
