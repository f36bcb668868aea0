"""A local stand-in for kimi.com: both protocol generations, over real sockets, on one port.

Knows the wire described in the protocol notes. Must never know the gateway: nothing here imports it, and
nothing in the gateway imports this package.
"""
