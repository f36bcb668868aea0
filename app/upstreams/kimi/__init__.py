"""Kimi's web site, with all of its wire: two generations of a protocol, errors, models, connections."""
