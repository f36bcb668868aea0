"""OpenAI's Responses."""

from app.api.responses.routes import OPERATIONS, blueprint

__all__ = ["OPERATIONS", "blueprint"]
