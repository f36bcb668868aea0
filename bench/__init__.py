"""The benchmark: ``python -m bench``. README.md explains its figures."""
