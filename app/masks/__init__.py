"""Masks of pruned layers, drawn from the packed form that a job has left."""
