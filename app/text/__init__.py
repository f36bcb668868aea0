"""Pure text: prompts, token counts, the end of an answer, citations, JSON.

No input or output. Does not know accounts, HTTP requests or upstreams.
"""
