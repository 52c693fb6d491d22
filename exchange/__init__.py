"""The kernel: what two daemons must agree on."""
