"""What all plugins share beyond the SDK: settings, reading, STATE, rejects, summary, shutdown."""
