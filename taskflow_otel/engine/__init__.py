"""What happens to a task: how it is built, taken in, dispatched, run, and ended."""
