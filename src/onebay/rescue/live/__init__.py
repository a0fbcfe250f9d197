"""What runs inside the rescue system: its settings, network, SSH, clock and consoles."""
