"""What people do through the administration: its audit, and work on many tasks as records."""
