"""The HTTP side of the service: the only users of aiohttp's server. `routes.py` is its table of contents."""
