"""Expander-guided N:M pruning of decoder-only language models.

Importing this package imports nothing heavy: `pattern`, `spec`, `report` and `errors` need only pydantic,
so that an API process can share them; every other module needs torch and transformers.
"""
