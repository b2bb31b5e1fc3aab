"""What the policy acts in: tau2's retail tools over cheap private worlds, tasks, users, and the executable reward."""
