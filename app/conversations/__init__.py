"""Stored conversations: which Kimi chat continues each one. Also the deletion of Kimi chats."""
