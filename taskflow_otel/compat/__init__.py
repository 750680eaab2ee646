"""Internals of other packages that the library uses: one module for each package, and a test for each use."""
