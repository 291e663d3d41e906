"""Webhooks (https://www.standardwebhooks.com): events of jobs, sent to addresses that users have registered."""
