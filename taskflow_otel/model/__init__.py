"""What a task is: status, record, events, options, arguments; pure data."""
