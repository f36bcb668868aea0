"""The Kimi accounts: their tokens and how those are renewed, who may use one now, and who waits for one."""
