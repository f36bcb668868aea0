"""OpenAI's legacy completions."""

from app.api.completions.body import Body
from app.api.completions.routes import OPERATIONS, blueprint

__all__ = ["OPERATIONS", "Body", "blueprint"]
