"""The client's metrics for `prometheus_client`, which the application has to have installed.

    from configsvc_client.prometheus import ClientCollector
    from prometheus_client import REGISTRY

    REGISTRY.register(ClientCollector(config))

Numbers are those of one process. Where several are counted together (`PROMETHEUS_MULTIPROC_DIR`), collectors are not
asked: hand out `client.metrics()` there in another way.
"""

from collections.abc import Iterator

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ModuleNotFoundError as error:
    raise ImportError(
        "configsvc_client.prometheus needs the package prometheus-client: pip install prometheus-client"
    ) from error

from configsvc_client.aio import AsyncConfigClient
from configsvc_client.client import ConfigClient
from configsvc_client.metrics import Sample


class ClientCollector(Collector):
    """Reads a client's numbers whenever they are asked for.

    Several clients of one process are given by name, which becomes the label `client`:
    `ClientCollector(payments=one, orders=other)`.
    """

    def __init__(
        self, client: ConfigClient | AsyncConfigClient | None = None, /, **named: ConfigClient | AsyncConfigClient
    ) -> None:
        """Take one client, or several by name; raises `ValueError` for neither and for both."""
        if (client is None) is not bool(named):
            raise ValueError("give one client, or several by name")
        self._client = client
        self._named = named

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """One family for each metric."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for more, sample in self._samples():
            labels = {**more, **sample.labels}
            if sample.name not in families:
                kind = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                families[sample.name] = kind(sample.name, sample.help, labels=list(labels))
            families[sample.name].add_metric(list(labels.values()), sample.value)
        yield from families.values()

    def _samples(self) -> Iterator[tuple[dict[str, str], Sample]]:
        if self._client is not None:
            yield from (({}, sample) for sample in self._client.metrics())
        for name, client in self._named.items():
            yield from (({"client": name}, sample) for sample in client.metrics())
