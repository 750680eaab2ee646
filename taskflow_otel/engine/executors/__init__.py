"""How the function of one attempt is run: on the event loop, in a thread, in a child process."""
