"""The service: HTTP, persistence, keys, the queue's doorbell and the command line. Never imports torch."""
