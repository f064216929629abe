"""configsvc: a distributed configuration service on etcd."""

__version__ = "0.1.0"
