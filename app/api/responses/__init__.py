"""OpenAI's Responses."""

from app.api.responses.routes import OPERATIONS, Body, blueprint

__all__ = ["OPERATIONS", "Body", "blueprint"]
