"""What happens to a task: dispatch and queues, attempts, retries, executors, recovery."""
