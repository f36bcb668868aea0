"""The console: the pages under ``/console`` where the owner sees and changes accounts, keys and conversations.

A Flask application of its own, made when it is first asked for (``mount``): a gateway whose console nobody opens does
not load it. Every page is complete without scripts.
"""
