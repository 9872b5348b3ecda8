"""What the codes mean that arise before any rule runs, by stage."""
