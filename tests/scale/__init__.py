"""Gates on more than one machine: deployments/compose.yaml without containers; `make test-scale`."""
