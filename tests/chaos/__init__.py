"""Promises under fire: `make chaos` at full count, one cycle of each in `make test-served`."""
