"""Published test cases of other projects' parsers, read from local clones, against our reader of calls.

Nothing of those projects is stored here: ``python -m tests.tool_cases`` reads their files where they are.
"""
