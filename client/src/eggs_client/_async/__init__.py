"""The client for event loops, which the other one is generated from."""
