"""What Singer plugins need beyond the SDK: safe reading, state barriers, shutdown, rejects."""
