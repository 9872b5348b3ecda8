"""What is assumed where nobody says otherwise: one set for every command that plans, times or sizes, and each report says it."""

ROUTING = "bound"
"""Every dynamic loop makes as many trips as it can, so that sizes hold for any routing."""
SUBMIT_US = 0.5
"""What one submission costs the submitting thread. A task takes what its op's cost says (`runner.rings.devices.durations`)."""
DEVICE = "a2a3"
"""Whose workers there are, and how it reclaims (`runner/rings/devices`)."""
