"""Work in the background with time limits, with and without gevent. Must never know what is worked on."""
