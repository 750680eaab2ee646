"""An example of several processes: a database, web processes that only enqueue, and workers."""
