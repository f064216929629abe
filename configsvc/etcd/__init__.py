"""The only code that knows etcd: its operations as data, its JSON gateway, and how to start one."""
