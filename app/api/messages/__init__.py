"""Anthropic's Messages."""

from app.api.messages.routes import OPERATIONS, blueprint

__all__ = ["OPERATIONS", "blueprint"]
