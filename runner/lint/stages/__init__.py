"""These modules say, stage by stage, what the codes mean that arise outside of the rules."""
