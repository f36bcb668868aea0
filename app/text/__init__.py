"""Pure text: what several messages become, how many tokens it is, where it ends, what is cited, which JSON is in it.

Does no input or output. Must never know an account, a request of HTTP, or an upstream.
"""
