"""The public APIs: one folder or file for each, and nothing else. ``ls app/api`` is the list.

A dialect is a folder: ``body`` (what clients send), ``routes`` (its paths), ``encoder`` (what clients get). What they
share of Flask is in ``app.web``. They do not know one another.
"""
