"""Work in the background: with time limits, again and again, and without blocking others. With and without gevent.

Knows nothing of the work.
"""
