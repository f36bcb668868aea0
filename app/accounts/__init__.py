"""The Kimi accounts: tokens and their renewal, leases, scheduling, and the queue of waiting requests."""
