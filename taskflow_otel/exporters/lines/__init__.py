"""Observers that write lines: `FileLogger` and `StdoutLogger`."""
