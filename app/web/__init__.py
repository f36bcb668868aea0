"""What all public APIs share of Flask: who asks, what came in, what goes out, what goes wrong.

Must never know the fields of any one API, nor that Kimi exists.
"""
