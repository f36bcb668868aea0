"""Anthropic's Messages."""

from app.api.messages.body import Body
from app.api.messages.routes import OPERATIONS, blueprint

__all__ = ["OPERATIONS", "Body", "blueprint"]
