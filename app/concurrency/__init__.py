"""Background threads, time limits and periodic work, with and without gevent.

Must never know what the work is.
"""
