"""What instances that share a backend do for each other: heartbeat, takeover, recovery, shared settings."""
