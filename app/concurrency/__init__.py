"""Work in the background with time limits, with and without gevent. Does not know what the work is."""
