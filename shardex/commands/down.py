"""`shardex down`: stop the cluster of a data directory."""

from shardex.commands.options import Data, locate


def command(data: Data = None) -> None:
    """Stop a cluster, also one whose supervisor has died. Its data stays."""
    from shardex import foreground, launcher, supervision

    config = launcher.read_config(locate(data))
    if not supervision.cluster_processes(config.data):
        raise launcher.NotRunning(f"no cluster runs in {config.data}")
    console = foreground.console()
    with foreground.progress(console, f"stopping {config.data}"):
        launcher.stop(config)
    console.print("stopped; no process is left", highlight=False)
