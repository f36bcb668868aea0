"""Pure functions on text: prompts, token counts, stop strings, citations, JSON.

No input or output. Must never know accounts, HTTP requests or upstreams.
"""
