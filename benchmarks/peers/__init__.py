"""The sides that ours is measured against: scripts of the peers' environment, which `make bench-peers` sets up."""
