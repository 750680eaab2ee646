"""How people look and act: REST API, access control, live page."""
