"""What the library uses of other packages beyond what they promise: one module for each, and a test for each use."""
