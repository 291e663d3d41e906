"""API keys: made and revoked on the command line, checked on every request under /v1."""
