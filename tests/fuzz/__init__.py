"""Requests that nobody would write, made from our own OpenAPI: a few in `make test`, many by `make fuzz`."""
