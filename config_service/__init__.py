"""The name under which some applications import the client: `from config_service import ConfigClient`.

The package is `configsvc_client`; everything public there is here too, as the same objects.
"""

from configsvc_client import *  # noqa: F403
from configsvc_client import __all__ as __all__
