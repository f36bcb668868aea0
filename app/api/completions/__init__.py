"""OpenAI's legacy completions."""

from app.api.completions.routes import OPERATIONS, blueprint

__all__ = ["OPERATIONS", "blueprint"]
