"""Anthropic's Messages."""

from app.api.messages.routes import OPERATIONS, Body, blueprint

__all__ = ["OPERATIONS", "Body", "blueprint"]
