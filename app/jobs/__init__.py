"""Pruning jobs: submission, state, events, and the leases that workers hold."""
