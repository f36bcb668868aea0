"""From a request to the events of its answer: what to say, each try, what after a failure, what is done on the way.

Must never know HTTP, JSON of any API, SQL, or a field name of OpenAI or Kimi.
"""
