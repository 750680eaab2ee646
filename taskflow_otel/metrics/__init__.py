"""The fleet's numbers made one."""
