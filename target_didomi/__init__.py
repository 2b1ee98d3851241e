"""Singer target for Didomi: writes consent events, such as those of Actito's changes."""
