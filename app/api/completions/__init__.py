"""OpenAI's legacy completions."""

from app.api.completions.routes import OPERATIONS, Body, blueprint

__all__ = ["OPERATIONS", "Body", "blueprint"]
