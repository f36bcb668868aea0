"""Kimi Gateway: OpenAI-compatible and Anthropic-compatible APIs for the user's own Kimi accounts.

This file imports nothing, so that ``gunicorn.conf.py`` can import ``app.settings`` before gevent patches the standard
library. Importing a module of this package opens no socket, reads no environment variable and starts no thread.
"""

__version__ = "0.1.0"
