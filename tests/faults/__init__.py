"""What goes wrong, thrown at every backend and every executor."""
