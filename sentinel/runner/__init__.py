"""`sentinel run`: the local way to run an experiment, through DVC. Imports nothing: pods need only `child`."""
