"""Kimi Gateway: programs that speak OpenAI's API talk to the user's own Kimi accounts.

Imports nothing, so that ``gunicorn.conf.py`` can read ``app.settings`` without loading what gevent has yet to patch.
Importing anything of this package opens no socket, reads no environment and starts no thread.
"""

__version__ = "0.1.0"
