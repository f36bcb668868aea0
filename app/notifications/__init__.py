"""Messages to the owner (``NOTIFY_URL``): an account needs them, no account answers, Kimi sends what is not known.

``conditions`` says what is so, ``delivery`` sends, ``notifier`` decides when. One process of all workers and machines
sends; no request ever waits for it.
"""
