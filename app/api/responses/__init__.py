"""OpenAI's Responses."""

from app.api.responses.body import Body
from app.api.responses.routes import OPERATIONS, blueprint

__all__ = ["OPERATIONS", "Body", "blueprint"]
