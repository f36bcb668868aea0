"""Which Kimi chat continues which conversation, and which chats are to be deleted."""
