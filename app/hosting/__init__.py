"""Running the gateway under a server: gunicorn's worker, the check before a start, the demo."""
