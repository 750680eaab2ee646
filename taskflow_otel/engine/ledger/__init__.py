"""The one writer of this process: pending changes, and the transactions that write them."""
