"""How a route adds tasks: injection, middleware, the request's outbox."""
