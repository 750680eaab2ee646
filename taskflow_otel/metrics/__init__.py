"""The metrics of all instances as one: `fleet` adds them up, `sources` reads them from the engine."""
