"""`configsvc dev`: etcd and the service on this machine, with sample data, for trying things out."""

import os
from pathlib import Path
from typing import Annotated

import typer

from configsvc.cli.process import load_settings

DATA = Path(".configsvc") / "dev"


def dev(
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="The namespace to serve. Default: SERVICE_NAME, else demo.")
    ] = None,
    central: Annotated[
        bool, typer.Option("--central", help="Serve every namespace, as a central service does.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(metavar="PORT", min=0, max=65535, help="The service's port. Default: 8080; 0: any that is free."),
    ] = None,
    etcd_port: Annotated[
        int,
        typer.Option(
            metavar="PORT", min=0, max=65534, help="etcd's port; the next one is used too. 0: any that is free."
        ),
    ] = 0,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Where etcd keeps its data. Default: {DATA}.")
    ] = None,
    memory: Annotated[bool, typer.Option("--memory", help="Keep no data after the end.")] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Settings file. Without it, none is read.")
    ] = None,
) -> None:
    """Start etcd and the service on this machine, with sample data. Ctrl-C stops both.

    Variables such as CONFIGSVC_HEARTBEAT_S work as for serve; those for etcd's address do not. Warnings are logged;
    CONFIGSVC_LOG_LEVEL=info logs more.

    Example: configsvc dev --service payments --memory
    """
    if memory and data:
        raise typer.BadParameter("--memory keeps no data, --data says where to keep it")
    if central and service:
        raise typer.BadParameter("--central serves every namespace, --service only one")
    settings = load_settings(config or Path(os.devnull), _changes(service, central, port, config))
    from configsvc.cli import embedded

    raise typer.Exit(embedded.run_both(settings, folder=None if memory else data or DATA, etcd_port=etcd_port))


def _changes(service: str | None, central: bool, port: int | None, config: Path | None) -> dict[str, str | None]:
    """The variables that the options stand for."""
    changes: dict[str, str | None] = {name: None for name in os.environ if name.startswith("ETCD_")}
    changes["CONFIGSVC_WRITES"] = os.environ.get("CONFIGSVC_WRITES", "true")
    if config is None:
        changes["CONFIGSVC_LOG_LEVEL"] = os.environ.get("CONFIGSVC_LOG_LEVEL", "warning")
    if port is not None:
        changes["CONFIGSVC_LISTEN"] = f"127.0.0.1:{port}"
    if central:
        changes |= {"CONFIGSVC_MODE": "central", "SERVICE_NAME": None}
    elif service:
        changes |= {"CONFIGSVC_MODE": "sidecar", "SERVICE_NAME": service}
    elif config is None and not os.environ.keys() & {"CONFIGSVC_MODE", "SERVICE_NAME"}:
        changes["SERVICE_NAME"] = "demo"
    return changes
