"""A local simulation of kimi.com: both protocol generations, over real sockets, on one port.

Implements the wire formats of the protocol notes. Must never know the gateway: neither imports the other.
"""
