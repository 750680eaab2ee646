"""What everything that runs is built on: time, services, waits, owned asyncio tasks."""
