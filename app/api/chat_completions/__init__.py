"""OpenAI's chat completions."""

from app.api.chat_completions.body import Body
from app.api.chat_completions.routes import OPERATIONS, blueprint

__all__ = ["OPERATIONS", "Body", "blueprint"]
