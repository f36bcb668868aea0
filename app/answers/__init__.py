"""From a request to the events of its answer: the plan, the attempts, failover, and the shaping of events.

Must never know HTTP, the JSON of any API, SQL, or a field name of OpenAI or Kimi.
"""
