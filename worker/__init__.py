"""The worker: takes jobs that the doorbell announces, prunes, and publishes."""
