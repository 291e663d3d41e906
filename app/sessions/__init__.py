"""Sessions of browsers: an API key is exchanged for a cookie, so that no page has to keep the key."""
