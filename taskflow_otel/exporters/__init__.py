"""Who is told of what happens to tasks: each module here is one exporter or one kind of observer."""
