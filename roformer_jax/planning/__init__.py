"""What a run needs, before it is paid for: the real update compiled for devices that are not there."""
