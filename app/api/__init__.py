"""The public APIs: one folder or file for each.

A dialect is a folder: ``body`` (the request), ``routes`` (the paths), ``encoder`` (the reply). Their shared code is
in ``app.web``. They do not import one another.
"""
