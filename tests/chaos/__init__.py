"""Promises under fire: `make chaos` at full count, a tenth of it in `make test`."""
