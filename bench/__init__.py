"""How fast the gateway is: ``python -m bench``; what its figures mean is in README.md."""
