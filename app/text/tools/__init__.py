"""Function calls in plain text: how functions are described in a prompt, how calls are recognised in an answer.

Kimi's web protocol has no functions of the client's. So a prompt asks for calls in a form that can be read back:

    [3f09c2a1b87d call read_file:1]
    {"path": "a.py"}
    [3f09c2a1b87d /call]

The code in the headings is random, so that no text that Kimi quotes can forge a call, and the end of a call is
certain even where its JSON is broken. ``grammar`` knows the headings, ``describing`` the words of the prompt,
``reader`` the states of an answer, ``foreign`` the forms that Kimi falls into by itself, ``arguments`` JSON and
schemas. Must never know who asks, who answers, or any wire format.
"""
