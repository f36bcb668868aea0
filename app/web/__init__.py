"""The Flask code that all public APIs share: API keys, request bodies, responses, errors.

Must never know the fields of any one API, nor that Kimi exists.
"""
