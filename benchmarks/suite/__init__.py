"""The suite: what it measures (`rows`), how a row is measured (`runner`), and what was found (`report`)."""
