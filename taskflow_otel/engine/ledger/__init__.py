"""The one writer of this process: what waits to be written, and the transactions that it becomes."""
