"""How people reach it: injection, REST API, live page."""
