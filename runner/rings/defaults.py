"""What is assumed where nobody says otherwise: one set for every command that plans, times or sizes, and each report says it."""

ROUTING = "bound"
"""Every dynamic loop makes as many trips as it can, so that sizes hold for any routing."""
MOST_US = 1e15
"""Of one task or submission, thirty years: sums of millions of them stay finite, and reports stay JSON."""
DEVICE = "a2a3"
"""Whose workers there are, what a submission costs, how long tasks take whose ops' costs are known, and how it reclaims
(`runner/rings/devices`)."""
