"""Kimi's web site: the wire formats of both protocol generations, errors, models, connections."""
