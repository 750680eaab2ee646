"""The foundation of everything that runs: time, services, waits, owned asyncio tasks."""
