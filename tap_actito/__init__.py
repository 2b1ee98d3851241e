"""Singer tap for Actito."""
